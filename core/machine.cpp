#include "core/machine.h"

#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#ifdef __APPLE__
#include <sys/sysctl.h>
#else
#include <malloc.h>
#include <sched.h>
#include <sys/auxv.h>
#endif

namespace core {

namespace {

#ifdef __APPLE__

int64_t sysctl_integer(const char* name) {
  int64_t value = 0;
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 ? value : 0;
}

int64_t physical_cores() {
  const int64_t performance = sysctl_integer("hw.perflevel0.physicalcpu");
  return performance > 0 ? performance : sysctl_integer("hw.physicalcpu");
}

int64_t allowed_cores() { return std::thread::hardware_concurrency(); }
double quota_cores() { return INFINITY; }

#else

// The value behind "key : value" lines of /proc files, in the order of the file.
std::string proc_value(const std::string& line) {
  const size_t colon = line.find(':');
  const size_t begin = colon == std::string::npos ? colon : line.find_first_not_of(" \t", colon + 1);
  return begin == std::string::npos ? "" : line.substr(begin);
}

// Distinct (socket, core) pairs; 0 where the system does not tell.
int64_t physical_cores() {
  std::ifstream file("/proc/cpuinfo");
  std::set<std::pair<std::string, std::string> > cores;
  std::string socket;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("physical id")) socket = proc_value(line);
    if (line.starts_with("core id")) cores.emplace(socket, proc_value(line));
  }
  return static_cast<int64_t>(cores.size());
}

int64_t allowed_cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : std::thread::hardware_concurrency();
}

// cgroup v2: "max 100000" or "<quota> <period>"; v1: two files, quota -1 for none.
double quota_cores() {
  double quota = 0, period = 0;
  if (std::ifstream("/sys/fs/cgroup/cpu.max") >> quota >> period && period > 0) return quota / period;
  if (std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> quota && quota > 0 &&
      std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> period && period > 0) {
    return quota / period;
  }
  return INFINITY;
}

#endif

}  // namespace

bool multiplies_bfloat16() {
#ifdef __APPLE__
  return sysctl_integer("hw.optional.arm.FEAT_BF16") == 1;
#elif defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16") != 0;
#elif defined(__aarch64__)
  constexpr unsigned long kBf16 = 1ul << 14;  // HWCAP2_BF16 of the kernel's asm/hwcap.h
  return (getauxval(AT_HWCAP2) & kBf16) != 0;
#else
  return false;
#endif
}

int64_t usable_threads() {
  int64_t threads = std::max<int64_t>(1, allowed_cores());
  if (const int64_t cores = physical_cores(); cores > 0) threads = std::min(threads, cores);
  if (const double quota = quota_cores(); std::isfinite(quota)) {
    threads = std::min(threads, std::max<int64_t>(1, static_cast<int64_t>(quota)));
  }
  return threads;
}

std::string cpu_name() {
#ifdef __APPLE__
  char name[256] = {};
  size_t size = sizeof name;
  return sysctlbyname("machdep.cpu.brand_string", name, &size, nullptr, 0) == 0 ? name : "unknown";
#else
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return proc_value(line);
  }
  return "unknown";
#endif
}

int64_t memory_bytes() {
  const int64_t physical = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
#ifndef __APPLE__
  for (const char* limit : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    int64_t bytes = 0;  // stays so when the file says "max"
    if (std::ifstream(limit) >> bytes && bytes > 0) return std::min(physical, bytes);
  }
#endif
  return physical;
}

std::string system_name() {
  utsname name;
  if (uname(&name) != 0) return "unknown";
  return std::string(name.sysname) + " " + name.release + " " + name.machine;
}

void reset_peak_memory() {
#ifndef __APPLE__
#ifdef __GLIBC__
  malloc_trim(0);
#endif
  std::ofstream("/proc/self/clear_refs") << 5;
#endif
}

void return_freed_tensors() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 128 << 10);  // fixed: by itself it grows to 32 MB, and below it memory is returned late
#endif
}

int64_t peak_memory_bytes() {
#ifdef __APPLE__
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
#else
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("VmHWM:")) return std::stoll(proc_value(line)) * 1024;
  }
  return 0;
#endif
}

}  // namespace core
