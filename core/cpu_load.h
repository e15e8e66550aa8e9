// How busy the machine was beside this process, so that a measured time says how far it can be trusted.
#pragma once

#include <cstdint>
#include <optional>

namespace core {

// From its construction on.
class CpuLoad {
 public:
  CpuLoad();

  // Cores that other processes kept busy since then, on average; none where the system does not tell (macOS).
  std::optional<double> others() const;

 private:
  struct Times {
    double wall = 0, all = 0, own = 0;  // seconds; of the CPU: of everybody, and of this process
  };
  static std::optional<Times> now();
  std::optional<Times> start_;
};

// The system's load average over the last minute: threads that run or wait to; 0 where it does not tell.
double load_average();

}  // namespace core
