// Statistics kept between runs. On full-precision inputs they depend on model and text only, not on how weights are
// quantized, so a sweep over bits measures them once. (Inputs behind quantized blocks depend on everything: they are
// not kept.)
#pragma once

#include <optional>
#include <string>

#include "core/io/cache.h"
#include "quant/grids/statistics.h"

namespace quant {

class StatisticsStore {
 public:
  static constexpr int kVersion = 3;  // bumped by hand when statistics change

  // key: what all statistics depend on; linear and needs are added to it.
  StatisticsStore(core::Cache cache, core::CacheKey key) : cache_(std::move(cache)), key_(std::move(key)) {}

  bool has(const std::string& name, const Needs& needs) const;
  std::optional<Statistics> find(const std::string& name, const Needs& needs);
  void keep(const std::string& name, const Needs& needs, const Statistics& statistics);

  int64_t found() const { return found_; }
  int64_t kept() const { return kept_; }

 private:
  core::CacheKey key_of(const std::string& name, const Needs& needs) const;

  core::Cache cache_;
  core::CacheKey key_;
  int64_t found_ = 0, kept_ = 0;
};

}  // namespace quant
