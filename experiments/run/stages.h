// The stages of a run and the versions of their code. A version is kept by hand beside the code and bumped when its
// results change; results made by another version are stale: they are shown as such and made anew.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "core/walk.h"
#include "experiments/results/row.h"

namespace experiments {

// Version of everything that a run can be made of, by name. TORCH_CHECKs that no two have one name.
std::map<std::string, int> known_versions();
// Without the measures: what a block that a run has finished depends on.
std::map<std::string, int> versions_of_blocks();

// Why a results.json is not what this program would find: "quantize was version 1 and is 2 now"; "" when it is.
std::string outdated(const Row& row);

// What a run does, stage by stage, as results.json lists it.
class StageLog {
 public:
  // Runs `work` as a stage and records its time and peak memory. `work` returns whether its result came from the cache.
  // TORCH_CHECKs that known_versions() has the stage.
  template <typename Work>
  void run(const std::string& name, Work&& work) {
    begin(name);
    const auto start = std::chrono::steady_clock::now();
    const bool cached = work();
    finish(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), cached);
  }
  // A stage that ran inside of another one.
  void add(const std::string& name, double seconds);
  // Says that the running stage depends on this code too; TORCH_CHECKs that known_versions() has it so.
  void uses(const std::string& part);
  void uses(const std::vector<core::Stage*>& stages);

  const std::vector<StageRecord>& all() const { return records_; }

 private:
  void begin(const std::string& name);
  void finish(double seconds, bool cached);

  std::vector<StageRecord> records_;
};

}  // namespace experiments
