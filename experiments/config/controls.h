// The controls that a replica is measured against (replication.controls) and the rungs of its ablation ladder
// (replication.ladder): further points beside it, with the same calibration and seeds.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/config/node.h"
#include "experiments/config/spec.h"

namespace experiments {

// A document of one of the runs, and what the run is in the comparison.
struct Variant {
  core::Node document;
  std::string control;  // "": no controls are asked for; none: the replica itself; a control or rung by its name
  std::vector<std::pair<std::string, std::string>> swept = {};  // what distinguishes it from others of the same control
};

// The runs that a point's document asks for, itself among them: the single replica first, because what is measured on
// its way is what the replica is held against. The control `curve` reads the model's configuration, for its shapes.
std::vector<Variant> with_controls(core::Node document);

}  // namespace experiments
