// refrain.json: what a quantized checkpoint says about itself. Written last, so a directory that has one is complete.
//
// {"schema": 1, "model": "tiny-qwen3", "commit": "1f0c…",
//  "plan": [{"block": 0, "replica": 0, "kv": "own"}, …],
//  "modules": {"model.layers.0.mlp.up_proj": {"format": "affine", "weight": {"bits": 2, "group_size": 64},
//  "code_hash": "…", "seed": 42}, …},
//  "inputs": {"model.layers.0.mlp.down_proj": {"activation": {"bits": 8}, "seed": 42}, …}, "untied": true}
// `kv` is "own" or the step whose keys and values are shared; `weight` holds the keys of quant.weight, `activation`
// (absent: full precision) those of quant.activation, `replication` (absent: a plain grid) the strategy and its
// options; a module that is not listed is dense, of those under `inputs` (absent: none) the inputs are quantized.
// `untied` (absent: false) says that embedding and head of a model that ties them are stored apart.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/model.h"
#include "quant/grids/activation.h"
#include "quant/grids/weight_config.h"

namespace exports {

inline constexpr const char* kManifestFile = "refrain.json";

// One quantized linear.
struct QuantizedModule {
  std::string format;          // quant::WeightFormat::name()
  quant::WeightConfig weight;  // the variables from which make_format makes it again
  std::string code_hash;       // core::Codes::hash()
  uint64_t seed = 0;           // of what the format draws
  quant::ActivationConfig activation;
  core::Node replication = {};  // quant::WeightFormat::replication(); null: a grid
  std::string codes_of = {};    // the linear that stores its codes; empty: itself
};

// The quantized inputs of a linear that is dense.
struct QuantizedInputs {
  quant::ActivationConfig activation;
  uint64_t seed = 0;  // of what is drawn
};

struct Manifest {
  std::string file;    // where it is
  std::string model;   // name of the source model
  std::string commit;  // of the Refrain that wrote it; may be empty
  core::Plan plan;
  std::map<std::string, QuantizedModule> modules;      // by Hugging Face path
  std::map<std::string, std::string> records = {};     // of a block: core::Stage::record() by name of the stage
  std::map<std::string, QuantizedInputs> inputs = {};  // by Hugging Face path, of dense linears
  bool untied = false;
};

// Errors: no such file, not JSON, another schema, a missing or wrong entry; each names file and key.
Manifest read_manifest(const std::string& file);

// Atomically, to manifest.file; an older file of that name is replaced.
void write_manifest(const Manifest& manifest);

// Of a directory with a checkpoint, or of a sidecar (core/io/gguf_sidecar.h), whose keys hold it.
Manifest manifest_of(const std::string& model);
// As the key refrain.manifest holds it: without the plan, which is in refrain.plan, five numbers a step.
std::string manifest_in_sidecar(const Manifest& manifest);
std::vector<int32_t> plan_in_sidecar(const core::Plan& plan);

// One block of an unfinished checkpoint: its shard, and the file that describes it as a manifest.
std::string shard_file(int64_t block);        // "block-00003.safetensors"
std::string description_file(int64_t block);  // "block-00003.json"

}  // namespace exports
