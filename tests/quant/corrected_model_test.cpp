// Corrected targets of the embedded models: hidden states come nearer to full precision, and those of an expert are of
// the tokens that it is sent.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "core/io/hf_config.h"
#include "core/linalg.h"
#include "core/text/load_tokenizer.h"
#include "experiments/config/calibration.h"
#include "experiments/inputs/calibration_text.h"
#include "models/registry.h"
#include "quant/calibration/calibration.h"
#include "quant/linear/swapped.h"
#include "quant/stage/quantize.h"
#include "tests/support/calibrated.h"

namespace quant {
namespace {

struct Embedded {
  std::string directory;
  std::shared_ptr<core::Model> model;
  core::Weights weights;

  explicit Embedded(const std::string& name)
      : directory(std::string(REFRAIN_SOURCE_DIR) + "/data/" + name),
        model(models::build(core::read_hf_config(directory))),
        weights(std::make_shared<core::Checkpoint>(core::Checkpoint::open(directory)), at::kFloat, at::kCPU) {
    model->load_embedding_and_head(weights);
  }
  core::HiddenStore text(int64_t samples) const {
    experiments::CalibrationConfig config;
    config.samples = samples;
    config.seq_len = 64;
    const std::string train =
        core::slurp(std::string(REFRAIN_SOURCE_DIR) + "/data/corpora/tiny/train.txt").substr(0, 60000);
    return experiments::embedded(
        *model,
        experiments::calibration_windows(config, core::load_tokenizer(directory)->encode(train), model->shape(), 1),
        64);
  }
};

// Mean square difference between the last hidden states and those of full precision, over the mean square of these, on
// windows that no linear was calibrated on.
double distance(const std::string& yaml, bool sequential, bool corrects) {
  constexpr int64_t kSamples = 48, kHeldOut = 8;  // windows of one batch each
  Embedded tiny("tiny-qwen3");
  core::HiddenStore full = tiny.text(kSamples), quantized = tiny.text(kSamples);
  const QuantConfig config = quant_config(yaml);
  std::vector<Assignment> assigned = assign(config, *tiny.model, 1);
  for (Assignment& a : assigned) {
    if (corrects && a.format) a.needs = a.needs | Needs{.hessian = true, .cross = true};
  }
  Quantize stage(config.methods.at(config.method).share(), config.method, assigned, {.true_sequential = sequential});
  core::ResidentSource source(tiny.weights);
  core::walk(*tiny.model, source, {&stage}, {.full = &full, .quantized = &quantized, .held_out = kHeldOut});
  double error = 0, energy = 0;
  for (int64_t i = kSamples - kHeldOut; i < kSamples; ++i) {
    error += core::sum_of_squares(full.get(i) - quantized.get(i));
    energy += core::sum_of_squares(full.get(i));
  }
  return error / energy;
}

TEST(CorrectedTarget, BringsTheHiddenStatesOfAModelNearerToFullPrecision) {
  const std::vector<std::pair<std::string, bool>> runs{
      {"{method: gptq, weight: {bits: 2, group_size: 64, range: minmax}}", false},
      {"{method: gptq, weight: {bits: 2, group_size: 64, symmetry: midrise, range: mse}}", true},
      {"{method: rtn, weight: {bits: 2, group_size: 64, range: mse}}", false}};
  for (const auto& [yaml, sequential] : runs) {
    const double plain = distance(yaml, sequential, false), corrected = distance(yaml, sequential, true);
    EXPECT_LT(corrected, 0.97 * plain) << yaml;
  }
}

// A mixture whose quantized inputs go to other experts than those in full precision: both passes send the tokens where
// the quantized one does.
TEST(CorrectedTarget, OfAnExpertIsMeasuredOnTheTokensThatItGetsInTheQuantizedModel) {
  Embedded tiny("tiny-deepseek-moe");
  core::ResidentSource source(tiny.weights);
  const int64_t index = tiny.model->shape().layers - 1;
  source.load(*tiny.model, index);
  core::Block& block = tiny.model->block(index);
  core::Mixture& moe = *block.mixture();
  const core::HiddenStore full = tiny.text(3);
  core::HiddenStore quantized(full.batches());
  at::manual_seed(7);
  for (int64_t i = 0; i < full.batches(); ++i)
    quantized.put(i, full.get(i) + 0.5 * at::randn_like(full.get(i)) * full.get(i).std());
  std::map<core::Slot*, std::shared_ptr<core::Linear>> originals;
  for (core::Slot* slot : block.slots()) originals[slot] = slot->pointer();
  for (int64_t e = 0; e < moe.experts(); ++e) {  // as if gate_proj and up_proj were quantized already
    for (core::Slot* slot : moe.slots_of(e)) {
      const at::Tensor w = slot->linear().weight();
      slot->put(std::make_shared<core::DenseLinear>(w + 0.2 * w.std() * at::randn_like(w), at::Tensor(), 32));
    }
  }
  // What every slot sees by itself, by hand.
  const auto router_inputs = [&](const core::HiddenStore& hidden) {
    std::vector<at::Tensor> all;
    const auto keep = [&](const at::Tensor& x) { all.push_back(x.reshape({-1, x.size(-1)}).clone()); };
    collect(block, {}, hidden, {{.slot = &moe.router(), .needs = {}, .input = nullptr, .watch = keep}});
    return at::cat(all);
  };
  const at::Tensor x_q = router_inputs(quantized);
  const at::Tensor chosen = moe.route(x_q).experts;
  at::Tensor x_fp, own_choice;
  {
    Swapped swapped;
    for (const auto& [slot, linear] : originals) swapped.put(*slot, linear);
    x_fp = router_inputs(full);
    own_choice = moe.route(x_fp).experts;
  }
  EXPECT_FALSE(at::equal(std::get<0>(chosen.sort(-1)), std::get<0>(own_choice.sort(-1))));
  for (const bool all_experts : {false, true}) {
    for (int64_t e = 0; e < moe.experts(); ++e) {
      core::Slot &gate = *moe.slots_of(e)[0], &down = *moe.slots_of(e)[2];
      const std::vector<Statistics> found =
          collect_beside(block, {.all_experts = all_experts}, quantized, {full, originals},
                         {{&gate, {.hessian = true, .cross = true}}, {&down, {.hessian = true, .cross = true}}});
      const at::Tensor rows = all_experts ? at::arange(x_q.size(0)) : (chosen == e).any(-1).nonzero().flatten();
      if (rows.size(0) == 0) {
        EXPECT_EQ(found[0].tokens, 0);
        continue;
      }
      const auto inner = [&](const at::Tensor& x) {
        at::Tensor seen;
        Swapped recorder;
        recorder.put(down,
                     std::make_shared<core::RecordingLinear>(down.pointer(), [&](const at::Tensor& y) { seen = y; }));
        moe.run(e, x);
        return seen;
      };
      const at::Tensor q = x_q.index_select(0, rows), fp = x_fp.index_select(0, rows), inner_q = inner(q);
      at::Tensor inner_fp;
      {
        Swapped swapped;
        for (const auto& [slot, linear] : originals) swapped.put(*slot, linear);
        inner_fp = inner(fp);
      }
      const auto check = [&](const Statistics& one, const at::Tensor& a, const at::Tensor& b) {
        EXPECT_EQ(one.tokens, rows.size(0)) << e;
        const at::Tensor expected = statistics_of_both(a, b).cross;
        EXPECT_LT((one.cross - expected).abs().max().item<double>(), 1e-4 * expected.abs().max().item<double>()) << e;
      };
      check(found[0], fp, q);
      check(found[1], inner_fp, inner_q);
    }
  }
}

}  // namespace
}  // namespace quant
