// The stage that quantizes: what it puts into the slots, what it reports, what the model then costs.
#include "quant/stage/quantize.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "quant/grids/make_format.h"
#include "quant/linear/quantized_linear.h"
#include "tests/support/toy_model.h"

namespace quant {
namespace {

using core::message_of;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

QuantConfig config_with(int64_t bits, int64_t group_size) {
  QuantConfig config;
  config.weight.bits = bits;
  config.weight.group_size = group_size;
  return config;
}

Quantize stage_of(const QuantConfig& config, core::Model& model) {
  return Quantize(config.methods.at(config.method).share(), config.method, assign(config, model));
}

const LinearMethod& rtn_method() {
  static const Methods methods = make_methods();
  return dynamic_cast<const LinearMethod&>(*methods.at("rtn"));
}

const QuantizedLinear& quantized_in(core::Slot& slot) { return dynamic_cast<const QuantizedLinear&>(slot.linear()); }

TEST(Quantize, InTheWalkGivesWhatTheMethodGivesForTheWeightAlone) {
  toy::Toy toy, dense;
  dense.load_blocks();
  Quantize stage = stage_of(config_with(3, 16), *toy.model);
  toy.walk({&stage});
  for (size_t i = 0; i < 2 * toy::kLayers; ++i) {
    const auto format = make_format(config_with(3, 16).weight, "", dense.slot(i).in_features());
    const Encoded alone = rtn_method().quantize(dense.slot(i).linear().weight(), *format, {});
    EXPECT_TRUE(at::equal(quantized_in(toy.slot(i)).codes().unpack(), alone.codes));
    EXPECT_TRUE(at::equal(quantized_in(toy.slot(i)).parameters().at("scale"), alone.parameters.at("scale")));
    EXPECT_TRUE(at::equal(quantized_in(toy.slot(i)).parameters().at("zero_point"), alone.parameters.at("zero_point")));
  }
}

TEST(Quantize, LeavesAModuleOfSixteenBitsAndEveryBiasAsTheyAre) {
  toy::Toy toy, dense;
  dense.load_blocks();
  QuantConfig config = config_with(2, 64);
  core::bind(core::parse_yaml("rules: [{match: '*.down_proj', weight: {bits: 16}}]", "a.yaml"), config);
  Quantize stage = stage_of(config, *toy.model);
  toy.walk({&stage});
  EXPECT_TRUE(at::equal(toy.slot(1).linear().weight(), dense.slot(1).linear().weight()));
  EXPECT_EQ(dynamic_cast<QuantizedLinear*>(&toy.slot(1).linear()), nullptr);
  EXPECT_TRUE(at::equal(toy.slot(0).linear().bias(), dense.slot(0).linear().bias()));
}

TEST(Quantize, ReportsEachLinearOnceWithItsError) {
  toy::Toy toy, dense;
  dense.load_blocks();
  Quantize stage = stage_of(config_with(2, 32), *toy.model);
  toy.walk({&stage});
  ASSERT_EQ(stage.reports().size(), 2 * toy::kLayers);
  const ModuleReport& report = stage.reports()[3];
  EXPECT_EQ(report.path, "model.layers.1.mlp.down_proj");
  EXPECT_EQ(report.method, "rtn");
  EXPECT_EQ(report.out_features, toy::kWidth);
  EXPECT_EQ(report.in_features, toy::kFfn);
  EXPECT_EQ(report.bits, 2);
  EXPECT_EQ(report.groups, toy::kWidth * toy::kFfn / 32);
  EXPECT_EQ(report.fallback, "");
  EXPECT_GE(report.seconds, 0.0);
  const at::Tensor w = dense.slot(3).linear().weight().contiguous(),
                   approximation = toy.slot(3).linear().weight().contiguous();
  double error = 0, norm = 0;
  for (int64_t i = 0; i < w.numel(); ++i) {
    const double value = w.const_data_ptr<float>()[i], difference = value - approximation.const_data_ptr<float>()[i];
    error += difference * difference;
    norm += value * value;
  }
  // Each square is rounded to float32 before it is summed in double.
  EXPECT_NEAR(report.weight_error, error / norm, 1e-6 * error / norm);
  EXPECT_GT(report.weight_error, 0.01);
}

TEST(Quantize, AgainWithTheSameGridKeepsTheBillAndTheBiasBits) {
  toy::Toy toy;
  Quantize first = stage_of(config_with(4, 64), *toy.model), second = stage_of(config_with(4, 64), *toy.model);
  toy.walk({&first});
  const core::Cost once = core::bill(*toy.model);
  toy.walk({&second});
  EXPECT_EQ(core::bill(*toy.model).dense_bits, once.dense_bits);
  EXPECT_EQ(quantized_in(toy.slot(0)).bias_bits(), 32);
}

// A model whose block 1 has this value in its down_proj.
std::string message_with(double value, int64_t bits) {
  auto tensors = toy::random_tensors();
  for (auto& [name, tensor] : tensors) {
    if (name == "model.layers.1.mlp.down_proj.weight") tensor[2][3] = value;
  }
  toy::Toy toy(tensors);
  Quantize stage = stage_of(config_with(bits, 64), *toy.model);
  return message_of([&] { toy.walk({&stage}); });
}

TEST(Mistakes, AScaleBeyondFloat16NamesTheModuleAndTheWeight) {
  EXPECT_EQ(message_with(1e6, 2),
            "model.layers.1.mlp.down_proj: a scale of 3.33e+05 does not fit float16. Use scale_dtype: bfloat16 or "
            "float32.");
  EXPECT_EQ(message_with(1e6, 8), "no error");  // 1e6 / 255 fits
}

// Weights are checked when they are read (core::Weights::read), so no grid ever sees such a value.
TEST(Mistakes, ANanAmongTheWeightsIsRefusedBeforeQuantization) {
  const std::string message = message_with(std::numeric_limits<double>::quiet_NaN(), 2);
  EXPECT_THAT(message, StartsWith("model.layers.1.mlp.down_proj.weight: value at [2, 3] is not finite."));
}

// Breaks a weight after it was read, as a transform could.
class Breaks : public core::Stage {
 public:
  explicit Breaks(double value) : value_(value) {}
  std::string name() const override { return "breaks"; }
  int version() const override { return 1; }
  void block(core::BlockContext& context) override {
    core::Slot& slot = *context.block.slots().at(1);
    const at::Tensor w = slot.linear().weight().clone();
    w[2][3] = value_;
    slot.put(std::make_shared<core::DenseLinear>(w, at::Tensor(), 32));
  }

 private:
  double value_;
};

TEST(Mistakes, AWeightThatIsNotFiniteIsRefusedByEveryGrid) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  for (const char* grid : {"symmetry: asymmetric", "zero_point: float", "symmetry: narrow", "symmetry: span",
                           "symmetry: signed_full", "symmetry: noclip", "symmetry: midrise", "codebook: normal_float",
                           "codebook: lloyd_max", "codebook: levels, levels: [-1, -0.3, 0.3, 1]"}) {
    for (const char* range : {"minmax", "mse"}) {
      for (const double value : {nan, infinity, -infinity}) {
        SCOPED_TRACE(fmt::format("{}, {}, {}", grid, range, value));
        toy::Toy toy;
        QuantConfig config;
        core::bind(core::parse_yaml(fmt::format("weight: {{bits: 2, range: {}, {}}}", range, grid), "a.yaml"), config);
        Breaks breaks(value);
        Quantize stage = stage_of(config, *toy.model);
        EXPECT_EQ(
            message_of([&] {
              toy.walk({&breaks, &stage});
            }),
            "model.layers.0.mlp.down_proj: a weight is not finite, and no grid has a level for it. Check what was "
            "done to the model before.");
      }
    }
  }
}

// ---- the ends ----

QuantConfig config_from(const std::string& yaml) {
  QuantConfig config;
  core::bind(core::parse_yaml(yaml, "a.yaml"), config);
  return config;
}

// The toy model, whose head is tied, with its ends quantized.
struct Ends {
  toy::Toy toy, dense;
  Quantize stage;
  explicit Ends(const std::string& rules) : stage(stage_of(config_from("rules: [" + rules + "]"), *toy.model)) {
    stage.quantize_embedding_and_head(*toy.model);
  }
  core::Slot &embedding = toy.model->embedding(), &head = toy.model->head();
};

const char *const kEmbeddingRule = "{match: '*embed_tokens', weight: {bits: 3, group_size: 16}}",
                  *const kOutputs = "{match: lm_head, weight: {bits: 3, group_size: 16}}";

TEST(QuantizedEnds, ATiedPairOfEqualSettingsSharesItsCodes) {
  Ends ends(std::string(kEmbeddingRule) + ", " + kOutputs);
  EXPECT_EQ(ends.head.pointer(), ends.embedding.pointer());
  const auto format = make_format(quantized_in(ends.embedding).format().config(), "", toy::kWidth);
  const Encoded alone = rtn_method().quantize(ends.dense.model->embedding().linear().weight(), *format, {});
  EXPECT_TRUE(at::equal(quantized_in(ends.embedding).codes().unpack(), alone.codes));
  ASSERT_EQ(ends.stage.reports().size(), 1u);
  EXPECT_EQ(ends.stage.reports()[0].path, "model.embed_tokens");
  EXPECT_EQ(ends.stage.reports()[0].method, "rtn");
  EXPECT_EQ(ends.stage.reports()[0].note, "shared with lm_head");
}

TEST(QuantizedEnds, OneAloneOrOtherSettingsUntieThePair) {
  Ends rows(kEmbeddingRule), outputs(kOutputs),
      both(std::string(kEmbeddingRule) + ", {match: 'role:lm_head', weight: {bits: 4}}");
  EXPECT_TRUE(at::equal(rows.head.linear().weight(), rows.dense.model->head().linear().weight()));
  EXPECT_EQ(quantized_in(rows.embedding).codes().bits(), 3);
  EXPECT_EQ(dynamic_cast<QuantizedLinear*>(&outputs.embedding.linear()), nullptr);
  EXPECT_EQ(quantized_in(outputs.head).codes().bits(), 3);
  EXPECT_EQ(quantized_in(both.embedding).codes().bits(), 3);
  EXPECT_EQ(quantized_in(both.head).codes().bits(), 4);
  for (Ends* ends : {&rows, &outputs, &both}) EXPECT_FALSE(core::shares_embedding(*ends->toy.model));
}

TEST(QuantizedEnds, AreBilledAsStoredOverTheOriginalWeights) {
  constexpr int64_t table = toy::kVocabulary * toy::kWidth, side = table / 16 * (16 + 3), norm = toy::kWidth * 32;
  const auto bill = [](Ends& ends) { return core::bill_of_embedding_and_head(*ends.toy.model); };
  Ends shared(std::string(kEmbeddingRule) + ", " + kOutputs), rows(kEmbeddingRule), outputs(kOutputs);
  for (Ends* ends : {&shared, &rows, &outputs}) {
    EXPECT_EQ(bill(*ends).weights, table + toy::kWidth) << "a tied table once";
    EXPECT_EQ(bill(*ends).code_bits, 3 * table);
    EXPECT_EQ(bill(*ends).parameter_bits, side);
    EXPECT_EQ(bill(*ends).macs, table);
  }
  EXPECT_EQ(bill(shared).dense_bits, norm);
  EXPECT_EQ(bill(rows).dense_bits, norm + 32 * table) << "the head is stored apart now";
  EXPECT_EQ(bill(outputs).dense_bits, norm + 32 * table);
}

TEST(QuantizedLinear, DecodesTheRowsThatAreLookedUp) {
  for (const char* variables : {"group_size: 16", "group_size: -1, zero_point: float, offset: 0.3", "group_size: 0",
                                "scale_bits: 4, scale_group: 2, group_size: 16", "codebook: lloyd_max, group_size: 32",
                                "group_size: 16, noise: {sigma: 0.4}"}) {
    SCOPED_TRACE(variables);
    Ends ends(fmt::format("{{match: '*embed_tokens', weight: {{bits: 3, {}}}}}", variables));
    const at::Tensor ids = toy::ids(2, 5), found = ends.toy.model->embed(ids);
    EXPECT_TRUE(at::equal(found, at::embedding(ends.embedding.linear().weight(), ids)));
    EXPECT_FALSE(at::equal(found, ends.dense.model->embed(ids)));
  }
}

// ---- inputs of linears in full precision ----

TEST(Quantize, QuantizesTheInputsOfALinearOfSixteenBits) {
  toy::Toy toy, dense;
  dense.load_blocks();
  Quantize stage = stage_of(
      config_from("{weight: {bits: 4}, activation: {bits: 3}, rules: [{match: '*.down_proj', weight: {bits: 16}}]}"),
      *toy.model);
  toy.walk({&stage});
  const at::Tensor x = at::randn({2, 3, toy::kFfn});
  ActivationConfig activation;
  activation.bits = 3;
  const at::Tensor coarse = make_input_quantizer(activation, "", toy::kFfn)->apply(x);
  EXPECT_TRUE(at::equal(toy.slot(1).linear().forward(x), dense.slot(1).linear().forward(coarse)));
  EXPECT_EQ(stage.reports()[1].path, "model.layers.0.mlp.down_proj");
  EXPECT_EQ(stage.reports()[1].method, "none");
  EXPECT_EQ(stage.reports()[1].bits, 16);
  EXPECT_EQ(stage.reports()[1].weight_error, 0);
}

// ---- what the slot then holds ----

TEST(QuantizedLinear, ForwardIsTheDenseForwardWithTheDecodedWeight) {
  toy::Toy toy;
  Quantize stage = stage_of(config_with(2, 64), *toy.model);
  toy.walk({&stage});
  const at::Tensor x = at::randn({2, 3, toy::kWidth});
  core::Linear& linear = toy.slot(0).linear();
  core::DenseLinear dense(linear.weight(), linear.bias(), 32);
  EXPECT_TRUE(at::equal(linear.forward(x), dense.forward(x)));
}

TEST(QuantizedLinear, KeepsZeroCodesAsBuffersAndScalesAsFrozenParameters) {
  toy::Toy toy;
  Quantize stage = stage_of(config_with(2, 64), *toy.model);
  toy.walk({&stage});
  core::Linear& linear = toy.slot(0).linear();
  const auto parameters = linear.named_parameters();
  const auto buffers = linear.named_buffers();
  EXPECT_TRUE(buffers.contains("zero_point"));
  EXPECT_TRUE(parameters.contains("scale") && parameters.contains("bias"));
  EXPECT_FALSE(parameters.contains("codes"));
  for (const auto& parameter : parameters) EXPECT_FALSE(parameter->requires_grad()) << parameter.key();
  EXPECT_EQ(parameters["scale"].scalar_type(), at::kFloat);
}

TEST(QuantizedLinear, NamesItsStateByTheSlot) {
  toy::Toy toy;
  Quantize stage = stage_of(config_with(2, 64), *toy.model);
  toy.walk({&stage});
  std::vector<std::string> names;
  for (const core::State& state : toy.slot(0).state()) names.push_back(state.name + " " + core::name_of(state.kind));
  EXPECT_THAT(names, ::testing::ElementsAre(
                         "model.layers.0.mlp.up_proj.codes codes", "model.layers.0.mlp.up_proj.scale scale",
                         "model.layers.0.mlp.up_proj.zero_point zero_codes", "model.layers.0.mlp.up_proj.bias bias"));
}

// ---- the bill ----

TEST(Bill, TwoBitsInGroupsOf64WithIntegerZerosAre2Point28125BitsPerWeight) {
  toy::Toy toy;
  Quantize stage = stage_of(config_with(2, 64), *toy.model);
  toy.walk({&stage});
  for (const core::Slot* slot : toy.model->slots()) {
    const core::Cost cost = slot->cost();
    EXPECT_DOUBLE_EQ(static_cast<double>(cost.code_bits + cost.parameter_bits) / static_cast<double>(cost.weights),
                     2.28125);
  }
}

TEST(Bill, OfAQuantizedModelIsTheSumByHand) {
  toy::Toy toy;
  Quantize stage = stage_of(config_with(3, -1), *toy.model);
  toy.walk({&stage});
  const core::Cost cost = core::bill(*toy.model);
  const int64_t linears = toy::kLayers * 2 * toy::kWidth * toy::kFfn;  // weights
  const int64_t rows = toy::kLayers * (toy::kWidth + toy::kFfn);       // one scale and one zero each
  const int64_t dense = toy::kVocabulary * toy::kWidth + (toy::kLayers + 1) * toy::kWidth;  // embedding and norms
  const int64_t biases = toy::kLayers * toy::kFfn;
  EXPECT_EQ(cost.code_bits, 3 * linears);
  EXPECT_EQ(cost.parameter_bits, rows * (16 + 3));
  EXPECT_EQ(cost.dense_bits, 32 * (dense + biases));
  EXPECT_EQ(cost.macs, linears + toy::kVocabulary * toy::kWidth);  // the tied head multiplies too
}

TEST(Bill, OneGroupForTheWholeMatrixStoresOneScale) {
  toy::Toy toy;
  Quantize stage = stage_of(config_with(2, 0), *toy.model);
  toy.walk({&stage});
  EXPECT_EQ(toy.slot(0).cost().parameter_bits, 16 + 2);
}

// ---- the shape of a weight ----

TEST(WeightShape, OfPlusAndMinusOneHasKurtosisOneAndNoOutliers) {
  const WeightShape shape = weight_shape(at::tensor({1.0, -1.0, -1.0, 1.0}, at::kFloat).reshape({2, 2}));
  EXPECT_DOUBLE_EQ(shape.absmax, 1.0);
  EXPECT_DOUBLE_EQ(shape.kurtosis, 1.0);
  EXPECT_DOUBLE_EQ(shape.outlier_columns, 0.0);
}

TEST(WeightShape, CountsColumnsAboveThreeTimesTheMedian) {
  at::Tensor w = at::ones({4, 8});
  w.select(1, 2).fill_(3.5);
  w.select(1, 5).fill_(2.5);
  EXPECT_DOUBLE_EQ(weight_shape(w).outlier_columns, 1.0 / 8);
  EXPECT_DOUBLE_EQ(weight_shape(w).absmax, 3.5);
}

TEST(WeightShape, OfANormalDistributionHasKurtosisThree) {
  at::manual_seed(7);
  EXPECT_NEAR(weight_shape(at::randn({256, 256})).kurtosis, 3.0, 5 * std::sqrt(24.0 / 65536));  // five standard errors
}

TEST(WeightShape, OfZerosIsZero) { EXPECT_EQ(weight_shape(at::zeros({2, 2})).kurtosis, 0.0); }

}  // namespace
}  // namespace quant
