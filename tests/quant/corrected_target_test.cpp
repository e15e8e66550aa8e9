// Targets that make up for the errors of inputs: against dense least squares in double, and on toy models by hand.
#include "quant/calibration/corrected_target.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "quant/calibration/calibration.h"
#include "quant/linear/quantized_linear.h"
#include "quant/linear/swapped.h"
#include "quant/stage/quantize.h"
#include "tests/support/calibrated.h"

namespace quant {
namespace {

// T that minimises ‖W X_fpᵀ − T X_qᵀ‖² + n λ ‖T − W‖² over the rows of X_fp and X_q [n, I], λ = damp · mean diag
// E[x_q x_qᵀ]: as least squares over rows, no normal equations formed.
at::Tensor by_least_squares(const at::Tensor& weight, const at::Tensor& x_fp, const at::Tensor& x_q, double damp) {
  const at::Tensor w = weight.to(at::kDouble), fp = x_fp.to(at::kDouble), q = x_q.to(at::kDouble);
  const double lambda = damp * at::square(q).mean().item<double>();
  const at::Tensor ridge = at::eye(q.size(1), q.options()) * std::sqrt(lambda * static_cast<double>(q.size(0)));
  const at::Tensor left = at::cat({q, ridge}), right = at::cat({at::mm(fp, w.t()), at::mm(ridge, w.t())});
  return std::get<0>(at::linalg_lstsq(left, right, std::nullopt, "gelsd")).t();
}

// ‖a − b‖ / ‖b − c‖.
double part_of(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c) {
  const auto norm = [](const at::Tensor& x) { return at::linalg_vector_norm(x.to(at::kDouble)).item<double>(); };
  return norm(a.to(at::kDouble) - b.to(at::kDouble)) / norm(b.to(at::kDouble) - c.to(at::kDouble));
}

// ---- the formula ----

TEST(CorrectedTarget, IsTheRidgeSolutionInDouble) {
  constexpr int64_t kRows = 300;
  for (const int64_t I : {1, 24, 300}) {
    for (const double damp : {1e-3, 0.05, 2.0}) {
      const at::Tensor x_q = correlated_inputs(kRows, I), x_fp = x_q + 0.3 * at::randn({kRows, I}) + 0.2 * x_q.flip(1);
      const at::Tensor w = at::randn({kRows, I});  // more rows than are solved for at a time
      const auto found = corrected(w, statistics_of_both(x_fp, x_q), {.share = 1, .damp = damp});
      ASSERT_TRUE(found.has_value());
      const at::Tensor expected = by_least_squares(w, x_fp, x_q, damp);
      // H and the cross matrix are rounded to float32; the solution amplifies that by at most 1 / damp.
      EXPECT_LE(part_of(*found, expected, w), 1e-5 / damp + 1e-4) << I << " inputs, damp " << damp;
      const auto half = corrected(w, statistics_of_both(x_fp, x_q), {.share = 0.5, .damp = damp});
      EXPECT_LT((*half - (w + *found) / 2).abs().max().item<double>(), 1e-4);
    }
  }
}

TEST(CorrectedTarget, EqualInputsLeaveTheWeight) {
  const at::Tensor x = correlated_inputs(100, 16), w = at::randn({8, 16});
  EXPECT_TRUE(at::equal(*corrected(w, statistics_of_both(x, x), {}), w));
  EXPECT_TRUE(at::equal(*corrected(w, statistics_of_both(x * 2, x), {.share = 0}), w));
}

TEST(CorrectedTarget, ThereIsNoneForAMatrixThatIsNotPositiveDefinite) {
  const at::Tensor x = at::zeros({10, 4}), w = at::randn({3, 4});
  EXPECT_FALSE(corrected(w, statistics_of_both(x, x), {}).has_value());
  Statistics broken = statistics_of_both(at::ones({10, 4}), at::ones({10, 4}));
  broken.hessian[0][0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(corrected(w, broken, {}).has_value());
}

// ---- the statistics ----

TEST(CorrectedTarget, CrossIsAMeanOverTokensInBatchesPoolsAndScaledColumns) {
  at::manual_seed(3);
  constexpr int64_t I = 12;
  const at::Tensor q = at::randn({40, I}), fp = q + at::randn({40, I});
  const auto of = [&](int64_t first, int64_t last, const std::vector<int64_t>& cuts) {
    Accumulator sum({.hessian = true, .cross = true});
    int64_t from = first;
    for (const int64_t to : cuts) sum.add(q.slice(0, from, to), fp.slice(0, from, to)), from = to;
    sum.add(q.slice(0, from, last), fp.slice(0, from, last));
    return sum.result();
  };
  const at::Tensor expected = at::mm((fp - q).t(), q) / 40;
  const auto differs = [&](const at::Tensor& found) { return (found - expected).abs().max().item<double>(); };
  EXPECT_LT(differs(of(0, 40, {7, 8, 30}).cross), 1e-5);
  EXPECT_LT(differs(Statistics::pooled({of(0, 10, {}), {}, of(10, 40, {})}).cross), 1e-5);
  const at::Tensor f = at::rand({I}) + 0.5;
  EXPECT_LT(differs(of(0, 40, {}).divided(f).cross * f.unsqueeze(1) * f), 1e-5);
}

// ---- a toy model by hand ----

constexpr const char* kFirstBlockCoarse =
    "rules: [{match: \"model.layers.0.*\", weight: {bits: 2}}, {match: \"model.layers.2.*\", weight: {bits: 16}}]";

core::HiddenStore hidden_inputs(core::Model& model) {
  core::HiddenStore hidden(3);
  for (int64_t i = 0; i < 3; ++i) hidden.put(i, model.embed(toy::ids(2, 40 + i) + 0) + 0.3 * at::randn({2, 40 + i, 1}));
  return hidden;
}

at::Tensor rows_of(const core::HiddenStore& hidden) {
  std::vector<at::Tensor> rows;
  for (int64_t i = 0; i < hidden.batches(); ++i) rows.push_back(hidden.get(i).reshape({-1, hidden.get(i).size(-1)}));
  return at::cat(rows);
}

struct Walked {
  toy::Toy toy;
  std::vector<ModuleReport> reports;
  at::Tensor inputs;  // of the first block, [n, D]

  explicit Walked(const std::string& yaml, const Calibration& calibration = {}, bool corrects = true) {
    at::manual_seed(5);
    core::HiddenStore full = hidden_inputs(*toy.model), quantized(full.batches());
    for (int64_t i = 0; i < full.batches(); ++i) quantized.put(i, full.get(i));
    inputs = rows_of(full);
    const QuantConfig config = quant_config(yaml);
    std::vector<Assignment> assigned = assign(config, *toy.model);
    for (Assignment& a : assigned) {
      if (corrects && a.format) a.needs = a.needs | Needs{.hessian = true, .cross = true};
    }
    Quantize stage(config.methods.at(config.method).share(), config.method, assigned, calibration);
    EXPECT_EQ(stage.reads_full_stream(), corrects);
    EXPECT_TRUE(stage.reads_stream(*toy.model) || !corrects);
    toy.walk({&stage}, {.full = corrects ? &full : nullptr, .quantized = &quantized});
    reports = stage.reports();
  }
  std::vector<std::string> hashes() {
    std::vector<std::string> all;
    for (core::Slot* slot : toy.model->slots()) {
      if (const auto* linear = dynamic_cast<const QuantizedLinear*>(&slot->linear()))
        all.push_back(linear->codes().hash());
    }
    return all;
  }
};

// What the linears of a toy block see: inputs of up_proj and of down_proj, and the block's outputs.
struct Seen {
  at::Tensor up, down, outputs;
};
Seen seen_by(core::Block& block, const at::Tensor& x) {
  Seen seen;
  Swapped recorders;
  const std::vector<core::Slot*> slots = block.slots();
  const auto keep = [&](core::Slot* slot, at::Tensor& to) {
    recorders.put(*slot,
                  std::make_shared<core::RecordingLinear>(slot->pointer(), [&](const at::Tensor& y) { to = y; }));
  };
  keep(slots[0], seen.up);
  keep(slots[1], seen.down);
  seen.outputs = block.forward(x, {});
  return seen;
}

TEST(CorrectedTarget, IsWhatAFineGridStoresBehindACoarseBlock) {
  Walked walked(
      std::string("{method: rtn, weight: {bits: 8, group_size: 32, symmetry: asymmetric, scale_dtype: float32}, ") +
      kFirstBlockCoarse + "}");
  toy::Toy plain;
  plain.load_blocks();
  const Seen full = seen_by(plain.model->block(1), seen_by(plain.model->block(0), walked.inputs).outputs);
  // Behind the quantized first block, but in front of the block's own linears.
  const Seen seen = seen_by(plain.model->block(1), seen_by(walked.toy.model->block(0), walked.inputs).outputs);
  const auto check = [&](size_t index, const at::Tensor& x_fp, const at::Tensor& x_q) {
    const at::Tensor w = plain.slot(index).linear().weight();
    const at::Tensor expected = by_least_squares(w, x_fp, x_q, 0.05);
    const at::Tensor found = walked.toy.slot(index).linear().weight();
    const at::Tensor groups = expected.reshape({w.size(0), -1, 32});
    const at::Tensor step = (groups.amax(-1) - groups.amin(-1)) / 255;
    const double error = ((found - expected).reshape(groups.sizes()).abs() / step.unsqueeze(-1)).max().item<double>();
    EXPECT_LT(error, 0.51) << plain.slot(index).path() << ", in steps";
    EXPECT_GT((expected - w).abs().max().item<double>() / step.max().item<double>(), 5) << "the weight itself is far";
  };
  check(2, full.up, seen.up);
  check(3, full.down, seen.down);
  // The reports are about the weight of the model.
  const at::Tensor w = plain.slot(2).linear().weight(), decoded = walked.toy.slot(2).linear().weight();
  EXPECT_NEAR(walked.reports[2].weight_error, core::sum_of_squares(w - decoded) / core::sum_of_squares(w), 1e-6);
  EXPECT_NEAR(*walked.reports[2].output_error, output_error(w, decoded, statistics_of(seen.up).hessian), 1e-4);
  EXPECT_EQ(walked.reports[0].note, "corrected by 0.000") << "nothing is quantized before the first block";
  EXPECT_THAT(walked.reports[2].note, ::testing::StartsWith("corrected by 0."));
}

TEST(CorrectedTarget, MeasuredTrueSequentiallyMakesUpForTheEarlierLinearsOfItsBlock) {
  Walked walked("{method: gptq, weight: {bits: 8, group_size: 32}, rules: [{match: \"*.up_proj\", weight: {bits: 2}}]}",
                {.true_sequential = true});
  toy::Toy plain;
  plain.load_blocks();
  const Seen full = seen_by(plain.model->block(0), walked.inputs);
  const Seen seen = seen_by(walked.toy.model->block(0), walked.inputs);  // the quantized up_proj is before down_proj
  const at::Tensor w = plain.slot(1).linear().weight(), expected = by_least_squares(w, full.down, seen.down, 0.05);
  EXPECT_LT(part_of(walked.toy.slot(1).linear().weight(), expected, w), 0.05);
}

TEST(CorrectedTarget, OfShareZeroIsTheWeightBitForBit) {
  const std::string gptq = "{method: gptq, weight: {bits: 2, group_size: 32}}";
  const std::vector<std::string> plain = Walked(gptq, {}, /*corrects=*/false).hashes();
  EXPECT_EQ(Walked(gptq, {.correction = {.share = 0}}).hashes(), plain);
  EXPECT_NE(Walked(gptq).hashes(), plain);
  EXPECT_NE(Walked(gptq, {.correction = {.damp = 1}}).hashes(), Walked(gptq).hashes());
}

TEST(CorrectedTarget, MemoryForMatricesChangesNoBit) {
  const std::string gptq = "{method: gptq, weight: {bits: 2, group_size: 32}}";
  EXPECT_EQ(Walked(gptq, {.hessian_bytes = 1}).hashes(), Walked(gptq).hashes());
}

TEST(CorrectedTarget, EveryMethodThatCodesThroughAFormatCodesIt) {
  for (const char* method : {"rtn", "gptq", "ldlq", "awq", "hqq", "adaround"}) {
    const std::string yaml = fmt::format(
        "{{method: {}, adaround: {{iterations: 20}}, weight: {{bits: 8, group_size: 32, symmetry: asymmetric, "
        "zero_point: float}}, {}}}",
        method, kFirstBlockCoarse);
    Walked walked(yaml);
    toy::Toy plain;
    plain.load_blocks();
    const Seen full = seen_by(plain.model->block(1), seen_by(plain.model->block(0), walked.inputs).outputs);
    const Seen seen = seen_by(plain.model->block(1), seen_by(walked.toy.model->block(0), walked.inputs).outputs);
    const at::Tensor w = plain.slot(2).linear().weight(), expected = by_least_squares(w, full.up, seen.up, 0.05);
    EXPECT_LT(part_of(walked.toy.slot(2).linear().weight(), expected, w), 0.1) << method;
  }
}

// What a refinement is shown, which finds nothing.
struct Witness : Refinement {
  std::shared_ptr<const WeightFormat> plain;
  mutable at::Tensor w;
  explicit Witness(std::shared_ptr<const WeightFormat> format) : plain(std::move(format)) {}
  const std::shared_ptr<const WeightFormat>& format() const override { return plain; }
  Needs needs() const override { return {}; }
  Refined refine(const at::Tensor& weight, Encoded encoded, const Statistics&) const override {
    w = weight;
    return {std::move(encoded), {}};
  }
};

TEST(CorrectedTarget, IsWhatARefinementFits) {
  toy::Toy toy, plain;
  plain.load_blocks();
  at::manual_seed(5);
  core::HiddenStore full = hidden_inputs(*toy.model), quantized(full.batches());
  for (int64_t i = 0; i < full.batches(); ++i) quantized.put(i, full.get(i));
  const QuantConfig config = quant_config("{method: rtn, weight: {bits: 2, group_size: 32}}");
  std::vector<Assignment> assigned = assign(config, *toy.model);
  std::shared_ptr<const Witness> witness;
  for (Assignment& a : assigned) {
    if (!a.format) continue;
    a.needs = {.hessian = true, .cross = true};
    if (a.slot == &toy.slot(2)) a.refinement = witness = std::make_shared<const Witness>(a.format);
  }
  Quantize stage(config.methods.at("rtn").share(), "rtn", assigned);
  toy.walk({&stage}, {.full = &full, .quantized = &quantized});
  EXPECT_FALSE(at::equal(witness->w, plain.slot(2).linear().weight()));
}

}  // namespace
}  // namespace quant
