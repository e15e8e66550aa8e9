// What the key of a cached number names, so that nobody writes the list by hand: the stage and its version, the
// configuration keys that the stage reads, the contents that go in, the key of what it builds on, and the machinery
// (dtype, device, LibTorch, threads) on which the bits of a result depend.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/io/cache.h"
#include "experiments/config/spec.h"

namespace experiments {

struct Dependencies {
  std::string stage;                                        // "baseline"
  int version;                                              // of the code
  std::vector<const core::Section*> keys;                   // what the stage is handed, and nothing else
  std::vector<std::pair<std::string, std::string>> inputs;  // name, content hash: {"model", …}, {"tokens", …}
  std::string parent = "";                                  // id() of the key of the stage before; "": none
};

core::CacheKey cache_key(const Spec& spec, const Dependencies& dependencies);

}  // namespace experiments
