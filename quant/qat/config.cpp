#include "quant/qat/config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.h"
#include "quant/grids/scalar_grid.h"

namespace quant {

namespace {

using core::Kind;

constexpr const char* kCodes = "codes";

// What can be trained beside them, as configurations name it.
constexpr std::array<std::pair<const char*, Kind>, 12> kTrainable{
    {{"scale", Kind::scale},
     {"zero_point", Kind::zero_point},
     {"offset", Kind::offset},
     {"codebook", Kind::table},
     {"row_scale", Kind::row_scale},
     {"column_scale", Kind::column_scale},
     {"gates", Kind::gate},
     {"token_gate", Kind::token_gate},
     {"low_rank", Kind::low_rank},
     {"norms", Kind::norm},
     {"activation_scale", Kind::activation_scale},
     {"activation_zero_point", Kind::activation_zero_point}}};

std::vector<std::string> trainable_names() {
  std::vector<std::string> names{kCodes};
  for (const auto& [name, kind] : kTrainable) names.emplace_back(name);
  return names;
}

Kind kind_of(const std::string& name) {
  const auto found = std::find_if(kTrainable.begin(), kTrainable.end(), [&](const auto& e) { return e.first == name; });
  TORCH_CHECK(found != kTrainable.end(), name, " is not trainable");
  return found->second;
}

std::vector<std::string> method_names() {
  std::vector<std::string> names;
  for (const QatMethod& method : qat_methods()) names.emplace_back(method.name);
  return names;
}

std::string method_help() {
  std::string text;
  for (const QatMethod& method : qat_methods())
    text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", method.name, method.summary);
  return text;
}

}  // namespace

const std::vector<QatMethod>& qat_methods() {
  static const std::vector<QatMethod> methods{
      {"tune", "what `train` names", {}, "kl"},
      {"e2e_qp", "scales only, by the loss of the text (EfficientQAT)", {"scale"}, "ce"},
      {"block_ap",
       "codes and scales of each block, then the scales of the model (EfficientQAT)",
       {kCodes, "scale"},
       "kl"}};
  return methods;
}

const QatMethod& QatConfig::chosen() const {
  const auto& all = qat_methods();
  const auto found = std::find_if(all.begin(), all.end(), [&](const QatMethod& m) { return m.name == method; });
  TORCH_CHECK(found != all.end(), "no qat method ", method);
  return *found;
}

void QatConfig::keys(core::Keys& k) {
  k.key("steps", steps, "optimizer steps; 0: nothing is trained", {0, 1e9});
  k.key("method", method, method_help(), method_names());
  k.key(
      "train", train,
      "what is trained; codes: of single blocks, through a continuous copy of them (scope: block, or both, which "
      "then trains the model with the codes that its blocks have); zero_point: integer ones become float ones and are "
      "stored as such, or the lowest level that is stored in its place; activation_*: of quant.activation.mode: static",
      trainable_names());
  k.key(
      "scope", scope,
      "block: each block for the outputs of the full-precision one, on the calibration text, before the next block is "
      "quantized; model: all blocks together, end to end, at last; both: one after the other",
      {"block", "model", "both"});
  k.key("objective", objective,
        "of scope model: kl to the full-precision model, ce: loss of the text, hidden: relative mean square error of "
        "the last hidden states; of scope block: block_mse, the same of the block's outputs, or block_token_mse, the "
        "mean of every token's own; auto: kl (e2e_qp: ce), or block_mse",
        {"auto", "kl", "ce", "hidden", "block_mse", "block_token_mse"});
  k.key("lr", lr,
        "largest learning rate, relative to each tensor: of scales, tables, norms and factors times their mean "
        "magnitude, of zero points and offsets in steps",
        {0, 100, /*low_open=*/true});
  core::Key& rate = k.key("codes_lr", codes_lr,
                          "the same of codes, in steps of the grid: one changes when it has moved by half a step",
                          {0, 100, /*low_open=*/true});
  core::Key& every =
      k.key("encode_every", encode_every,
            "steps after which codes that depend on their neighbours are found anew (Viterbi)", {1, 1e9});
  if (!trains_codes()) {
    for (core::Key* key : {&rate, &every}) key->only_if_given();
  }
  k.key("warmup", warmup, "steps in which the rate rises linearly; then it falls to 0 as a cosine", {0, 1e9});
  k.key("batch", batch, "windows of text per step", {1, 1 << 20});
  k.key("clip_norm", clip_norm, "largest norm of the gradient, taken with respect to relative changes; 0: any",
        {0, 1e9});
  k.key("weight_decay", weight_decay, "of AdamW", {0, 1});
  k.key("corpus", corpus,
        "text to train on in scope model, all of it; generated: text that the full-precision model writes, as much as "
        "the steps read; empty: calibration.corpus");
  k.key("seq_len", seq_len, "tokens of a window; 0: calibration.seq_len", {0, 1 << 20});
  core::Key& share =
      k.key("held_out", held_out,
            "share at the end of the text that neither training nor calibration on the same text sees", {0, 0.9});
  if (!selected()) share.only_if_given();
  k.key("held_out_corpus", held_out_corpus, "another text in place of that share; empty: none");
  k.key("held_out_windows", held_out_windows, "at most so many windows of held-out text are looked at", {1, 1 << 20});
  k.key("eval_every", eval_every, "steps between looks at the held-out text", {1, 1e9});
  k.key("keep", keep, "best: the iterate with the least held-out loss, the untrained one included; last: the last one",
        {"best", "last"});
  k.key("patience", patience, "looks at the held-out text without a better one after which training ends; 0: never",
        {0, 1e9});
  k.key("recompute", recompute,
        "keep only the inputs of blocks for the backward pass and run each block again: less memory, more time");
  k.key("save_every", save_every, "steps between saved states, from which an interrupted training goes on", {1, 1e9})
      .not_identity();
}

void QatConfig::check() const {
  if (!selected()) return;
  core::require(!train.empty(), "{}: nothing is trained. Name parameters, or set qat.steps: 0.", where("train"));
  core::require(chosen().train.empty() || !given("train") || trained() == train,
                "{}: {} trains {} only. Leave train out, or set qat.method: tune.", where("train"), method,
                fmt::join(chosen().train, ", "));
  const std::vector<std::string> names = trained();
  for (const std::string& name : names) {
    core::require(std::count(names.begin(), names.end(), name) == 1, "{}: {} is there twice. Name it once.",
                  where("train"), name);
  }
  const auto trains = [&](const char* name) { return std::count(names.begin(), names.end(), name) > 0; };
  core::require(!trains(kCodes) || scope != "model",
                "{}: codes are trained block by block. Set qat.scope: block, or both.", where("train"));
  core::require(!(trains("offset") && trains("zero_point")),
                "{}: an offset moves the levels as all zero points together do. Train one of them.", where("train"));
  core::require(!(scope == "block" && (objective == "kl" || objective == "ce" || objective == "hidden")),
                "{}: {} is of the whole model. Set qat.scope: model, or qat.objective: block_mse.", where("objective"),
                objective);
  core::require(!(scope != "block" && (objective == "block_mse" || objective == "block_token_mse")),
                "{}: {} is of single blocks. Set qat.scope: block, or qat.objective: kl.", where("objective"),
                objective);
  core::require(scope != "block" || corpus.empty(),
                "{}: scope: block trains on the calibration text. Set calibration.corpus, or qat.scope: model.",
                where("corpus"));
  core::require(keep == "last" || examines(),
                "{}: best needs held-out text. Set qat.held_out or qat.held_out_corpus, or qat.keep: last.",
                where("keep"));
  core::require(patience == 0 || examines(),
                "{}: patience needs held-out text. Set qat.held_out or qat.held_out_corpus.", where("patience"));
}

std::vector<std::string> QatConfig::trained() const { return chosen().train.empty() ? train : chosen().train; }

std::set<Kind> QatConfig::kinds() const {
  std::set<Kind> kinds;
  for (const std::string& name : trained()) {
    if (name != kCodes) kinds.insert(kind_of(name));
  }
  if (kinds.contains(Kind::zero_point)) kinds.insert(Kind::minimum);
  return kinds;
}

bool QatConfig::trains_codes() const {
  const std::vector<std::string> names = trained();
  return std::count(names.begin(), names.end(), kCodes) > 0;
}

CodeTraining QatConfig::code_training() const {
  return {.trains = trains_codes(), .rate = codes_lr / lr, .encode_every = encode_every};
}

std::string QatConfig::block_objective() const { return objective == "block_token_mse" ? objective : "block_mse"; }

std::string QatConfig::model_objective() const {
  if (objective != "auto") return objective;
  return chosen().objective;
}

void check_trainable(const QatConfig& config, const std::vector<Assignment>& assignments, const core::Plan& plan) {
  std::set<Kind> there{Kind::norm};
  if (std::any_of(plan.begin(), plan.end(), [](const core::Step& step) { return step.replica > 0; }))
    there.insert(Kind::gate);
  for (const Assignment& a : assignments) {
    if (a.input) {
      for (const Parameter& p : a.input->parameters()) there.insert(p.kind);
    }
    if (!a.format) continue;
    const WeightFormat& format = a.refinement ? *a.refinement->format() : *a.format;
    for (const Parameter& p : format.layout(a.slot->out_features(), a.slot->in_features()))
      there.insert(p.kind == Kind::zero_codes || p.kind == Kind::minimum ? Kind::zero_point : p.kind);
  }
  if (config.trains_codes()) {
    const auto shares = [](const Assignment& a) { return !a.codes_of.empty() || !a.mean_with.empty(); };
    const bool replicas = std::any_of(plan.begin(), plan.end(),
                                      [](const core::Step& step) { return step.replica > 0 || step.parallel > 1; });
    core::require(!replicas && std::none_of(assignments.begin(), assignments.end(), shares),
                  "{}: codes that several blocks or passes use are not trained. Leave codes out, or the strategy.",
                  config.where("train"));
    for (const Assignment& a : assignments) {
      const WeightFormat* format = a.refinement ? a.refinement->format().get() : a.format.get();
      const bool known =
          format == nullptr || format->order() == Order::sequence || dynamic_cast<const ScalarGrid*>(format) != nullptr;
      core::require(known, "{}: codes of grids and of windows are trained, not those of {}. Leave codes out.",
                    config.where("train"), known ? "" : format->name());
    }
  }
  std::vector<std::string> names;
  for (const auto& [name, kind] : kTrainable) {
    if (there.contains(kind)) names.emplace_back(name);
  }
  for (const std::string& name : config.trained()) {
    core::require(name == kCodes || there.contains(kind_of(name)),
                  "{}: no linear of this model has a {} to train. Leave it out; it has: {}.", config.where("train"),
                  name, fmt::join(names, ", "));
  }
}

}  // namespace quant
