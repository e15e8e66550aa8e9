// GPTQ on the layers of the embedded model, with the Hessians of its own training text: against rounding to nearest and
// against itself in double.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/io/hf_config.h"
#include "core/io/safetensors.h"
#include "core/text/corpus.h"
#include "core/text/load_tokenizer.h"
#include "experiments/config/calibration.h"
#include "experiments/inputs/calibration_text.h"
#include "models/registry.h"
#include "quant/calibration/calibration.h"
#include "quant/stage/quantize.h"
#include "tests/support/calibrated.h"
#include "tests/support/slow_gptq.h"

namespace quant {
namespace {

// The model, and the text that it was trained on.
const std::string kModel = std::string(REFRAIN_SOURCE_DIR) + "/data/tiny-qwen3",
                  kTrainingText = std::string(REFRAIN_SOURCE_DIR) + "/data/corpora/tiny/train.txt";
constexpr int64_t kGroupSize = 64;

// Hands every linear of the model to `look`, with the statistics of its inputs; leaves the model in full precision.
class Look : public core::Stage {
 public:
  using Function = std::function<void(core::Slot&, const Statistics&, int64_t block)>;
  explicit Look(Function look) : look_(std::move(look)) {}
  std::string name() const override { return "look"; }
  int version() const override { return 1; }
  void block(core::BlockContext& context) override {
    for (const core::LinearGroup& group : context.block.groups()) {
      const auto found = collect(context.block, {}, *context.inputs.full, {{group.slots.front(), {.hessian = true}}});
      for (core::Slot* slot : group.slots) look_(*slot, found.front(), context.index);
    }
  }

 private:
  Function look_;
};

void for_each_linear(const Look::Function& look) {
  const auto model = models::build(core::read_hf_config(kModel));
  const core::Weights weights(std::make_shared<core::Checkpoint>(core::Checkpoint::open(kModel)), at::kFloat, at::kCPU);
  model->load_embedding_and_head(weights);
  const std::string text = core::slurp(kTrainingText);
  experiments::CalibrationConfig config;
  config.samples = 16;
  core::HiddenStore hidden = experiments::embedded(
      *model,
      experiments::calibration_windows(
          config, core::load_tokenizer(kModel)->encode(text.substr(0, text.find('\n', 100000))), model->shape(), 1),
      1024);
  core::ResidentSource source(weights);
  Look stage(look);
  core::walk(*model, source, {&stage}, {.full = &hidden});
}

TEST(GptqOnAModel, HasALowerOutputErrorThanRoundingToNearestInNearlyAllLinears) {
  for (const char* weight : {"{bits: 2, group_size: 64}", "{bits: 3, group_size: 64, range: mse}"}) {
    double nearest = 0, gptq = 0;
    int64_t linears = 0, exceptions = 0;
    for_each_linear([&](core::Slot& slot, const Statistics& x, int64_t) {
      const at::Tensor w = slot.linear().weight();
      const auto error = [&](const char* method) {
        return output_error(w, decoded_as(fmt::format("{{method: {}, weight: {}}}", method, weight), w, x), x.hessian);
      };
      const double a = error("rtn"), b = error("gptq");
      nearest += a;
      gptq += b;
      ++linears;
      if (b < a) return;
      ++exceptions;
      fmt::print("{} {}: gptq {:.4f}, rtn {:.4f}\n", slot.path(), weight, b, a);
    });
    EXPECT_LT(gptq, 0.8 * nearest) << weight;
    EXPECT_LE(exceptions, linears / 20) << weight;
    EXPECT_GE(linears, 14);
  }
}

TEST(GptqOnAModel, HasTheOutputErrorOfTheSlowOneInDouble) {
  for (const int64_t bits : {2, 3}) {
    const QuantConfig config =
        quant_config(fmt::format("{{method: gptq, weight: {{bits: {}, group_size: 64}}}}", bits));
    for_each_linear([&](core::Slot& slot, const Statistics& x, int64_t block) {
      if (block > 0) return;
      const at::Tensor w = slot.linear().weight();
      Single single(w, config, x);
      const Encoded fast = single.by(*config.methods.at("gptq")).encoded;
      const at::Tensor slow = slow_gptq(w, x.hessian, fast.parameters, kGroupSize, (1 << bits) - 1, 0.01, true);
      const auto error = [&](const at::Tensor& codes) {
        return output_error(w, single.format->decode(codes, fast.parameters), x.hessian);
      };
      EXPECT_NEAR(error(fast.codes), error(slow), 0.01 * error(slow)) << slot.path() << " at " << bits << " bits";
    });
  }
}

// The reports of a mixture whose experts share what they see where they see little.
std::vector<ModuleReport> reports_of_a_mixture(int64_t hessian_bytes) {
  const std::string data = std::string(REFRAIN_SOURCE_DIR) + "/data", directory = data + "/tiny-deepseek-moe";
  const auto model = models::build(core::read_hf_config(directory));
  const core::Weights weights(std::make_shared<core::Checkpoint>(core::Checkpoint::open(directory)), at::kFloat,
                              at::kCPU);
  model->load_embedding_and_head(weights);
  experiments::CalibrationConfig config;
  config.samples = 4;
  config.seq_len = 64;
  const std::string text = core::slurp(data + "/corpora/tiny/train.txt").substr(0, 20000);
  core::HiddenStore hidden = experiments::embedded(
      *model,
      experiments::calibration_windows(config, core::load_tokenizer(directory)->encode(text), model->shape(), 1), 128);
  const QuantConfig gptq = quant_config("{method: gptq, weight: {bits: 3, group_size: 64}}");
  Quantize stage(gptq.methods.at("gptq").share(), "gptq", assign(gptq, *model, 1),
                 {.propagate_error = false,
                  .tokens = 4 * 64,
                  .min_token_fraction = 0.25,
                  .pool = true,
                  .hessian_bytes = hessian_bytes});
  core::ResidentSource source(weights);
  core::walk(*model, source, {&stage}, {.full = &hidden});
  return stage.reports();
}

TEST(GptqOnAModel, ExpertsPoolWithAllOfTheirBlockHoweverManyAreMeasuredAtATime) {
  const std::vector<ModuleReport> together = reports_of_a_mixture(Calibration::kHessianBytes);
  std::vector<ModuleReport> apart = reports_of_a_mixture(1);
  ASSERT_EQ(apart.size(), together.size());
  int64_t pooled = 0;
  for (size_t i = 0; i < together.size(); ++i) {
    EXPECT_EQ(apart[i].path, together[i].path);
    EXPECT_EQ(apart[i].weight_error, together[i].weight_error) << apart[i].path;
    EXPECT_EQ(apart[i].note, together[i].note) << apart[i].path;
    EXPECT_EQ(apart[i].tokens, together[i].tokens) << apart[i].path;
    pooled += together[i].note.ends_with(": pooled") ? 1 : 0;
    if (together[i].note.ends_with(": pooled")) {
      EXPECT_EQ(together[i].tokens, 2 * 4 * 64) << apart[i].path;
    }
  }
  EXPECT_GT(pooled, 0);
}

}  // namespace
}  // namespace quant
