// A run, resolved: what its configuration asks for, with all that needs no tensor fixed once. It is made by resolve()
// before anything is computed, given its name by identify(), and afterwards only read.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "experiments/config/points.h"
#include "experiments/inputs/resources.h"

namespace experiments {

// One measurement, ready to run.
struct Measurement {
  std::string name;  // of its measure
  bool is_list;      // measure.<name> is a list
  std::shared_ptr<const Measure> measure;
  std::shared_ptr<const Prepared> prepared;
};

struct Run {
  Point point;
  const ModelFiles* files = nullptr;
  core::Shape shape = {};
  core::Plan plan = {};                        // steps of the model; where a selection must be ranked first, without it
  const core::Windows* calibration = nullptr;  // the text on which inputs are measured; null: nothing asks for it
  const TrainingText* training = nullptr;      // null: nothing is trained
  std::vector<Measurement> measurements = {};
  std::string no_control = {};          // why the control that this run would be cannot be built: it is then never run
  std::string id = {}, directory = {};  // after identify(): hash of all that the numbers depend on; <out>/<name>/<id>

  const Spec& spec() const { return point.spec; }
  bool quantizes() const { return spec().quant.method != quant::QuantConfig::kNone; }
  // Whether the measured model is the full-precision model itself.
  bool is_unchanged() const { return !quantizes() && !files->quantized && !spec().replication.selected(); }
};

// Everything that can be known to be wrong with a point before a tensor is read is an error here: model, shapes, rules,
// texts, device. Texts are tokenized. A control that cannot be built is no error (Run::no_control).
Run resolve(Point point, Resources& resources);

// Gives the run its id and directory. Reads every byte of the model, once for all runs.
void identify(Run& run, Resources& resources);

// Hash of the identity keys of a configuration.
std::string config_hash(const Spec& spec);

}  // namespace experiments
