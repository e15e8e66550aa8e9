#include "experiments/config/spec.h"

#include <algorithm>

#include "core/error.h"

namespace experiments {

void ModelConfig::keys(core::Keys& k) {
  k.key("path", path,
        "directory in Hugging Face format or GGUF file, or its name under data/, $REFRAIN_DATA or among the models "
        "that tools/get_model has fetched");
  k.key("dtype", dtype,
        "dtype of the computation; auto: float32, and bfloat16 for models of more than 10^9 weights on a CPU that has "
        "instructions for it; the run's resolved.yaml then says so",
        {"auto", "float32", "bfloat16", "float16"});
  k.key("residency", residency,
        "weights in memory; resident: all; stream: one block at a time, of feed-forward networks one linear; auto: "
        "stream when all "
        "weights exceed half of the memory",
        {"stream", "resident", "auto"})
      .not_identity();
  k.key("spill_above", spill_above,
        "hidden states kept in memory, GB (10^9 bytes); what exceeds it lies in a temporary file below `out`", {0, 1e6})
      .not_identity();
}

void MachineConfig::keys(core::Keys& k) {
  k.key("cache_bytes", cache_bytes,
        "a block that runs again while it is still in a cache of this size is billed as read once; 0: it is read again",
        {0, 1LL << 40});
}

void PrefixConfig::keys(core::Keys& k) {
  k.node(
       "tokens", tokens,
       "list of token ids, or auto: tokens whose hidden states on the calibration text are 64 times as large as those "
       "of others, and BOS")
      .only_if_given();
}

void PrefixConfig::check() const {
  if (!selected() || (is_auto() && tokens.scalar == "auto")) return;
  const auto is_id = [](const core::Node& node) {
    return node.is_scalar() && !node.scalar.empty() && node.scalar.size() < 10 &&
           std::all_of(node.scalar.begin(), node.scalar.end(), [](char c) { return c >= '0' && c <= '9'; });
  };
  core::require(
      tokens.is_list() && !tokens.items.empty() && std::all_of(tokens.items.begin(), tokens.items.end(), is_id),
      "{}: tokens must be auto or a list of token ids, e.g. [1, 29889].", where("tokens"));
  core::require(static_cast<int64_t>(tokens.items.size()) <= kMost, "{}: {} tokens are more than {}. Name fewer.",
                where("tokens"), tokens.items.size(), kMost);
}

std::vector<int64_t> PrefixConfig::ids() const {
  std::vector<int64_t> all;
  for (const core::Node& node : tokens.items) all.push_back(std::stoll(node.scalar));
  return all;
}

void RuntimeConfig::keys(core::Keys& k) {
  k.key("linears", linears,
        "how quantized linears run; dense: the weight is decoded for every product; packed: codes are multiplied as "
        "they are, in float32; packed_int8: by int8 inputs, 32 columns of a token rounded together where "
        "groups of weights are multiples of that, else all",
        {"dense", "packed", "packed_int8"});
  k.key("rows", rows, "packed: products of more tokens than this decode the weight, a tile at a time", {0, 1 << 20});
  k.section("prefix", prefix,
            "tokens in front of every text, whose keys and values are kept in full precision and whose losses are not "
            "counted; full precision is measured with and without them")
      .only_if_given();
}

void SweepConfig::keys(core::Keys& k) {
  k.node("grid", grid, "map of dotted keys to lists of values: one run for every combination");
  k.node("cases", cases, "list of maps of dotted keys to values: one run each, times the grid if there is one");
}

void Spec::keys(core::Keys& k) {
  const core::Range any_seed{0, 4294967295};
  k.key("name", name, "folder of the results under `out`, e.g. qwen/group_size");
  k.key("seed", seed, "of every random number: calibration, rounding, noise", any_seed);
  k.key("seeds", seeds, "in place of seed: every point runs once per seed, and the table gets their mean ± sd",
        any_seed)
      .only_if_given();
  k.key("device", device, "where to compute; auto: cuda, else mps, else cpu", {"auto", "cpu", "mps", "cuda"});
  k.section("model", model, "the model under test");
  k.section("calibration", calibration, "the text on which inputs of linears are measured, where that is needed");
  k.list("transform", transform,
         "what is done to a block before it is quantized, in this order; each keeps what the block computes")
      .only_if_given();
  k.section("quant", quant, "how its weights are quantized");
  k.section("replication", replication, "how the codes are used several times");
  k.section("qat", qat,
            "training of the quantization parameters; codes stay what they are unless they are trained too");
  k.section("measure", measure, "what is measured, beside the full-precision model");
  k.section("runtime", runtime, "how the quantized model runs while it is measured");
  k.section("machine", machine, "the machine that the bill is for");
  k.key("checkpoint", checkpoint, "whether the quantized model is kept in the run directory", {"keep", "discard"});
  k.section("exports", exports, "files for other programs, made from the checkpoint").only_if_given().not_identity();
  k.section("sweep", sweep, "many runs from one file").only_if_given();
  k.node("expect", expect,
         "map of paths in results.json to bounds (min, max, equal, tolerance, point): a regression test")
      .only_if_given()
      .not_identity();
  k.key("out", out, "directory of all results").not_identity();
  k.key("threads", threads, "threads of the computation; 0: physical cores that this process may use", {0, 4096})
      .not_identity();
  k.key("quiet", quiet, "print the table and errors only").not_identity();
}

void Spec::check() const {
  core::require(!name.empty(), "{}: name is missing. Give the experiment one, e.g. name: qwen/group_size.",
                where("name"));
  const bool leaves = name.starts_with("/") || name.find("..") != std::string::npos;
  core::require(!leaves && !name.starts_with("."), "{}: `{}` is not a folder below {}. Use letters, digits, - and /.",
                where("name"), name, out);
  check_seeds();
  check_sequential();
  check_prefix();
  check_targets();
  check_transforms();
  core::require(
      !replication.selected() || !replication.chosen().needs_codes() || quant.method != quant::QuantConfig::kNone,
      "{}: {} uses codes several times, but quant.method: none makes none. Choose a method.",
      replication.where("strategy"), replication.strategy);
  check_qat();
  core::require(!out.empty(), "{}: out is empty. Name a directory, e.g. runs.", where("out"));
  core::require(!model.path.empty(), "{}: model.path is missing. Name a model directory, e.g. tiny-qwen3.",
                where("model"));
}

void Spec::check_sequential() const {
  if (calibration.true_sequential != "true") return;
  const std::string where = calibration.where("true_sequential");
  core::require(quant.method != quant::QuantConfig::kNone,
                "{}: quant.method: none quantizes no linear that others could be measured behind. Choose a method.",
                where);
  core::require(
      !quant.chosen().reads_inputs(),
      "{}: quant.method: {} encodes all linears of a block together. Remove true_sequential, or choose another "
      "method.",
      where, quant.method);
}

void Spec::check_prefix() const {
  if (!runtime.prefix.selected() || !replication.selected()) return;
  core::require(!replication.is_of_blocks() || replication.block_strategy()->has_followers(),
                "{}: it holds the keys and values of one run of every block, and {} runs blocks several times. Leave "
                "one of them out.",
                runtime.prefix.where("tokens"), replication.strategy);
}

bool Spec::corrects_targets() const {
  if (calibration.targets != "auto") return calibration.targets == "output";
  const bool looks_ahead = replication.is_of_blocks() && replication.block_strategy()->looks_ahead();
  return quant.method != quant::QuantConfig::kNone && quant.chosen().feeds_errors_back() && quant.weight.bits <= 3 &&
         calibration.propagate_error && !looks_ahead;
}

bool Spec::is_sequential() const {
  return calibration.true_sequential == "auto" ? corrects_targets() : calibration.true_sequential == "true";
}

void Spec::check_targets() const {
  for (const char* key : {"target_share", "target_damp"}) {
    core::require(!calibration.given(key) || corrects_targets(),
                  "{} is not read with targets: {}{}. Set targets: output, or remove it.", calibration.where(key),
                  calibration.targets, calibration.targets == "auto" ? ", which is weight here" : "");
  }
  if (calibration.targets != "output") return;
  const std::string where = calibration.where("targets");
  core::require(quant.method != quant::QuantConfig::kNone,
                "{}: output says what is coded, and quant.method: none codes nothing. Choose a method.", where);
  core::require(!quant.brings_codes(), "{}: output says what is coded, and quant.method: {} has its codes. Remove it.",
                where, quant.method);
  core::require(!quant.chosen().reads_inputs(),
                "{}: quant.method: {} fits the outputs of the block itself. Remove targets: output, or choose another "
                "method.",
                where, quant.method);
}

void Spec::check_transforms() const {
  if (transform.empty()) return;
  core::require(quant.method != quant::QuantConfig::kNone,
                "{}: a transform changes nothing by itself, and quant.method: none leaves the model as it is. Choose a "
                "method.",
                where("transform"));
  core::require(!quant.brings_codes(),
                "{}: quant.method: {} has the codes of untransformed weights. Remove the transform.",
                where("transform"), quant.method);
  const bool has_own = quant.methods.at(quant.method)->transform() != nullptr;
  for (const quant::TransformItem& item : transform) {
    const std::string name = item.chosen().name;
    core::require(!has_own || name != quant.method, "{}: method: {} applies it itself. Remove one of the two.",
                  item.where(name), quant.method);
  }
}

void Spec::check_qat() const {
  core::require(!qat.selected() || quant.method != quant::QuantConfig::kNone,
                "{}: quant.method: none leaves no quantization parameters to train. Choose a method.",
                qat.where("steps"));
}

void Spec::check_seeds() const {
  if (!given("seeds")) return;
  core::require(!given("seed"), "{}: seed is given too ({}). Keep one of them.", where("seeds"), where("seed"));
  core::require(!seeds.empty(), "{}: the list is empty. Name one seed per run, e.g. [1, 2, 3].", where("seeds"));
  for (size_t i = 0; i < seeds.size(); ++i) {
    const bool again = std::count(seeds.begin(), seeds.begin() + static_cast<int64_t>(i), seeds[i]) > 0;
    core::require(!again, "{}: seed {} is there twice. Name each once.", where("seeds"), seeds[i]);
  }
}

}  // namespace experiments
