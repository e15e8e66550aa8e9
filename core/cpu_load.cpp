#include "core/cpu_load.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>

namespace core {

namespace {

double seconds_of(const timeval& time) { return static_cast<double>(time.tv_sec) + 1e-6 * time.tv_usec; }

}  // namespace

CpuLoad::CpuLoad() : start_(now()) {}

// The first line of /proc/stat: "cpu user nice system idle iowait irq softirq steal …", in ticks, of all cores. What a
// hypervisor takes (steal) is others' too.
std::optional<CpuLoad::Times> CpuLoad::now() {
  std::ifstream file("/proc/stat");
  std::string name;
  double user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, soft = 0, steal = 0;
  if (!(file >> name >> user >> nice >> system >> idle >> wait >> irq >> soft >> steal) || name != "cpu")
    return std::nullopt;
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  return Times{.wall = std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(),
               .all = (user + nice + system + irq + soft + steal) / ticks,
               .own = seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime)};
}

std::optional<double> CpuLoad::others() const {
  const std::optional<Times> end = now();
  if (!start_ || !end || end->wall <= start_->wall) return std::nullopt;
  const double busy = (end->all - start_->all) - (end->own - start_->own);
  return std::max(0.0, busy / (end->wall - start_->wall));
}

double load_average() {
  double average = 0;
  return getloadavg(&average, 1) == 1 ? average : 0;
}

}  // namespace core
