// The quant section: which rule reaches which linear, and what each mistake is told.
#include "quant/config.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "quant/stage/quantize.h"
#include "quant/transform.h"
#include "tests/support/toy_model.h"

namespace quant {
namespace {

using core::message_of;
using ::testing::ElementsAre;

QuantConfig config_of(const std::string& yaml) {
  QuantConfig config;
  core::bind(core::parse_yaml(yaml, "a.yaml"), config, "quant");
  return config;
}

std::vector<Assignment> assigned(const std::string& yaml) {
  static const std::shared_ptr<core::Model> model = toy::skeleton();
  return assign(config_of(yaml), *model);
}

// "bits g group_size" of every linear in order; "-" for full precision.
std::vector<std::string> variables(const std::string& yaml) {
  std::vector<std::string> out;
  for (const Assignment& a : assigned(yaml)) {
    out.push_back(a.format ? fmt::format("{}g{}", a.format->code_bits(), a.format->config().group_size) : "-");
  }
  return out;
}

std::string mistake(const std::string& yaml) {
  return message_of([&] { assigned(yaml); });
}

TEST(Copies, OfASectionHaveMethodsOfTheirOwn) {
  const QuantConfig original = config_of("{method: gptq, gptq: {damp: 0.25}}");
  QuantConfig copy = original;
  core::bind(core::parse_yaml("{gptq: {damp: 0.5}}", "b.yaml"), copy, "quant");
  const auto damp = [](QuantConfig config) { return core::to_node(config).find("gptq")->find("damp")->scalar; };
  EXPECT_EQ(damp(copy), "0.5");
  EXPECT_EQ(damp(original), "0.25");
}

TEST(Copies, OfATransformHaveOptionsOfTheirOwn) {
  TransformItem original;
  core::bind(core::parse_yaml("{awq: {grid: 7}}", "a.yaml"), original, "transform[0]");
  TransformItem copy = original;
  core::bind(core::parse_yaml("{awq: {grid: 9}}", "b.yaml"), copy, "transform[0]");
  EXPECT_EQ(core::to_node(copy).find("awq")->find("grid")->scalar, "9");
  EXPECT_EQ(core::to_node(original).find("awq")->find("grid")->scalar, "7");
}

TEST(Rules, WithoutRulesEveryLinearTakesTheSection) {
  EXPECT_THAT(variables("weight: {bits: 3, group_size: 32}"),
              ElementsAre("3g32", "3g32", "3g32", "3g32", "3g32", "3g32"));
}

TEST(Rules, AreMergedKeyByKeyAndTheLastMatchWins) {
  const char* yaml =
      "weight: {bits: 4, group_size: 64}\n"
      "rules:\n"
      "  - {match: '*.down_proj', weight: {bits: 3, group_size: 32}}\n"
      "  - {match: 'model.layers.1.*', weight: {bits: 2}}\n"
      "  - {match: 'model.layers.2.mlp.down_proj', weight: {group_size: -1}}\n";
  EXPECT_THAT(variables(yaml), ElementsAre("4g64", "3g32", "2g64", "2g32", "4g64", "3g-1"));
}

TEST(Rules, InAnotherOrderGiveAnotherResult) {
  const char* all_last = "rules: [{match: '*.down_proj', weight: {bits: 3}}, {match: '*', weight: {bits: 2}}]";
  const char* all_first = "rules: [{match: '*', weight: {bits: 2}}, {match: '*.down_proj', weight: {bits: 3}}]";
  EXPECT_THAT(variables(all_last), ElementsAre("2g64", "2g64", "2g64", "2g64", "2g64", "2g64"));
  EXPECT_THAT(variables(all_first), ElementsAre("2g64", "3g64", "2g64", "3g64", "2g64", "3g64"));
}

TEST(Rules, MatchByRole) {
  EXPECT_THAT(variables("rules: [{match: 'role:up_proj', weight: {bits: 8}}]"),
              ElementsAre("8g64", "4g64", "8g64", "4g64", "8g64", "4g64"));
}

TEST(Rules, SixteenBitsLeaveALinearInFullPrecisionWhateverItsGroupSize) {
  EXPECT_THAT(variables("rules: [{match: '*.up_proj', weight: {bits: 16, group_size: 7}}]"),
              ElementsAre("-", "4g64", "-", "4g64", "-", "4g64"));
}

TEST(Rules, ARuleWithoutWeightChangesNothing) {
  EXPECT_THAT(variables("rules: [{match: '*'}]"), ElementsAre("4g64", "4g64", "4g64", "4g64", "4g64", "4g64"));
}

TEST(Rules, ReachEveryVariable) {
  const auto a =
      assigned("rules: [{match: '*.up_proj', weight: {codebook: normal_float, clip: 0.5, noise: {sigma: 1}}}]");
  EXPECT_EQ(a[0].format->name(), "codebook");
  EXPECT_EQ(a[0].format->config().clip, 0.5);
  EXPECT_EQ(a[0].format->config().noise.sigma, 1.0);
  EXPECT_EQ(a[1].format->name(), "affine");
}

// The base may say how the other modules' levels are made.
TEST(Rules, ACodebookForOneModuleIgnoresTheSymmetryOfTheRest) {
  const auto a = assigned("weight: {symmetry: midrise}\nrules: [{match: '*.up_proj', weight: {codebook: lloyd_max}}]");
  EXPECT_EQ(a[0].format->name(), "codebook");
  EXPECT_EQ(a[1].format->config().symmetry, "midrise");
}

TEST(Mistakes, AKeyThatIsNotReadWithAnother) {
  EXPECT_EQ(mistake("weight: {codebook: lloyd_max, symmetry: midrise}"),
            "a.yaml:1: quant.weight.symmetry is not read with codebook: lloyd_max. Remove one of the two.");
  EXPECT_EQ(mistake("weight: {codebook: levels, levels: [-1, 1], zero_point: int, bits: 1}"),
            "a.yaml:1: quant.weight.zero_point is not read with codebook: levels. Remove one of the two.");
  EXPECT_EQ(mistake("weight: {symmetry: narrow, zero_point: float}"),
            "a.yaml:1: quant.weight.zero_point is not read with symmetry: narrow. Remove one of the two.");
  EXPECT_EQ(mistake("weight: {levels: [-1, 1]}"),
            "a.yaml:1: quant.weight.levels is not read with codebook: uniform. Remove one of the two.");
  EXPECT_EQ(mistake("rules:\n  - {match: '*', weight: {codebook: normal_float, symmetry: span}}"),
            "a.yaml:2: quant.rules[0].weight.symmetry is not read with codebook: normal_float. Remove one of the two.");
}

TEST(Mistakes, VariablesThatContradictEachOther) {
  EXPECT_EQ(mistake("weight: {bits: 1, symmetry: narrow}"),
            "a.yaml:1: quant.weight.symmetry: narrow has no scale at 1 bit. Use 2 bits or more, or midrise.");
  EXPECT_EQ(mistake("weight: {bits: 1, symmetry: noclip}"),
            "a.yaml:1: quant.weight.symmetry: noclip has no scale at 1 bit. Use 2 bits or more, or midrise.");
  EXPECT_EQ(
      mistake("weight: {bits: 1, codebook: normal_float}"),
      "a.yaml:1: quant.weight.codebook: normal_float has levels on both sides of 0 from 2 bits on. Use 2 or more.");
  EXPECT_EQ(mistake("weight: {bits: 2, codebook: levels}"),
            "a.yaml:1: quant.weight.levels needs 4 numbers at 2 bits, not 0.");
  EXPECT_EQ(mistake("weight: {bits: 1, codebook: levels, levels: [1, 1]}"),
            "a.yaml:1: quant.weight.levels must be ascending, without equal neighbours.");
  EXPECT_EQ(
      mistake("weight: {scale_bits: 1, symmetry: signed_full}"),
      "a.yaml:1: quant.weight.scale_bits: signed_full needs a bit for the sign of its scales. Use scale_bits 2 or "
      "more.");
}

// ---- embedding and head ----

// Paths and bits of the ends that are quantized.
std::vector<std::string> ends(const std::string& yaml) {
  std::vector<std::string> out;
  for (const Assignment& a : assigned(yaml)) {
    if (a.slot->role() == core::Role::lm_head || a.slot->role() == core::Role::embed_tokens)
      out.push_back(fmt::format("{} {}", a.slot->path(), a.format->code_bits()));
  }
  return out;
}

TEST(Ends, AreLeftAloneUnlessARuleNamesThem) {
  for (const char* all : {"rules: [{match: '*', weight: {bits: 2}}]", "weight: {bits: 2}",
                          "rules: [{match: 'model.*', weight: {bits: 2}}]"})
    EXPECT_THAT(ends(all), ElementsAre()) << all;
  EXPECT_THAT(ends("rules: [{match: lm_head, weight: {bits: 2}}]"), ElementsAre("lm_head 2"));
  EXPECT_THAT(ends("rules: [{match: '*lm_head', weight: {bits: 2}}, {match: 'role:lm_head', weight: {bits: 5}}]"),
              ElementsAre("lm_head 5"));
  EXPECT_THAT(ends("rules: [{match: '*embed_tokens', weight: {bits: 3}}, {match: lm_head, weight: {bits: 2}}]"),
              ElementsAre("model.embed_tokens 3", "lm_head 2"));
  EXPECT_THAT(ends("rules: [{match: 'role:embed_tokens', weight: {bits: 16}}]"), ElementsAre());
  EXPECT_THAT(ends("method: none\nrules: [{match: lm_head, weight: {bits: 2}}]"), ElementsAre());
}

TEST(Ends, KeepTheirInputsUnlessARuleSaysOtherwise) {
  const auto input = [](const std::string& yaml) { return assigned(yaml).back().input; };
  EXPECT_EQ(input("activation: {bits: 8}\nrules: [{match: lm_head, weight: {bits: 4}}]"), nullptr);
  EXPECT_EQ(input("rules: [{match: lm_head, weight: {bits: 4}, activation: {bits: 6}}]")->config().bits, 6);
}

TEST(Mistakes, OfRulesForTheEnds) {
  EXPECT_EQ(mistake("rules: [{match: lm_head, weight: {group_size: 32}}]"),
            "a.yaml:1: quant.rules[0].match: `lm_head` needs weight.bits: lm_head stays in full precision unless a "
            "rule says how many.");
  EXPECT_EQ(mistake("rules: [{match: '*embed_tokens', weight: {bits: 4, range: importance}}]"),
            "a.yaml:1: quant.rules[0].weight: the inputs of model.embed_tokens are not measured. Give the rule range: "
            "minmax or mse.");
  for (const char* rule : {"match: '*embed_tokens', weight: {bits: 4}, activation: {bits: 8}",
                           "match: lm_head, weight: {bits: 16}, activation: {bits: 8}",
                           "match: lm_head, weight: {bits: 4}, activation: {bits: 8, mode: static, granularity: "
                           "per_tensor}"})
    EXPECT_THAT(
        mistake(fmt::format("rules: [{{{}}}]", rule)),
        ::testing::HasSubstr("cannot be quantized so: dynamic ones of an lm_head with weight.bits below 16 can."))
        << rule;
}

TEST(Mistakes, ARuleThatNamesANorm) {
  EXPECT_EQ(mistake("rules: [{match: '*.norm', weight: {bits: 8}}]"),
            "a.yaml:1: quant.rules[0].match: `*.norm` names a norm, and norms are not quantized. Name linears, e.g. "
            "model.layers.0.mlp.up_proj.");
}

TEST(Method, NoneLeavesEveryLinearInFullPrecision) {
  EXPECT_THAT(variables("method: none"), ElementsAre("-", "-", "-", "-", "-", "-"));
}

TEST(Mistakes, ARuleThatMatchesNothing) {
  EXPECT_EQ(mistake("rules:\n  - {match: '*.up_proj', weight: {bits: 2}}\n  - {match: '*.q_proj', weight: {bits: 2}}"),
            "a.yaml:3: quant.rules[1].match: `*.q_proj` matches no linear of this model. Its linears are named like "
            "model.layers.0.mlp.up_proj.");
  EXPECT_EQ(mistake("method: none\nrules: [{match: 'role:router'}]"),
            "a.yaml:2: quant.rules[0].match: `role:router` matches no linear of this model. Its linears are named like "
            "model.layers.0.mlp.up_proj.");
}

TEST(Mistakes, ARuleWithoutMatch) {
  EXPECT_EQ(mistake("rules:\n  - {weight: {bits: 2}}"),
            "a.yaml:2: quant.rules[0].match: match is missing. Name the modules, e.g. \"*.down_proj\".");
}

TEST(Mistakes, AGroupSizeThatDoesNotDivide) {
  EXPECT_EQ(mistake("weight: {group_size: 48}"),
            "model.layers.0.mlp.up_proj: group_size 48 does not divide 64 input features. Choose a divisor, or -1.");
  EXPECT_EQ(
      mistake("rules: [{match: '*.1.*.down_proj', weight: {group_size: 256}}]"),
      "model.layers.1.mlp.down_proj: group_size 256 does not divide 128 input features. Choose a divisor, or -1.");
}

TEST(Mistakes, BitsBetweenEightAndSixteen) {
  for (int bits = 9; bits <= 15; ++bits) {
    EXPECT_EQ(mistake(fmt::format("method: rtn\nweight:\n  bits: {}", bits)),
              fmt::format("a.yaml:3: quant.weight.bits must be 1 to 8, or 16 for full precision, not {}.", bits));
  }
  EXPECT_EQ(mistake("rules:\n  - match: '*'\n    weight: {bits: 9}"),
            "a.yaml:3: quant.rules[0].weight.bits must be 1 to 8, or 16 for full precision, not 9.");
}

// Keys change results: the decoded weights of the toy model under a configuration.
std::vector<at::Tensor> decoded_weights(const std::string& yaml) {
  toy::Toy toy;
  const QuantConfig config = config_of(yaml);
  const auto method = config.methods.find(config.method);
  Quantize stage(method == config.methods.end() ? nullptr : method->second.share(), config.method,
                 assign(config, *toy.model));
  toy.walk({&stage});
  std::vector<at::Tensor> weights;
  for (const core::Slot* slot : toy.model->slots()) weights.push_back(slot->linear().weight());
  return weights;
}

// Which of the model's linears differ.
std::vector<bool> differ(const std::string& one, const std::string& other) {
  const auto a = decoded_weights(one), b = decoded_weights(other);
  std::vector<bool> out;
  for (size_t i = 0; i < a.size(); ++i) out.push_back(!at::equal(a[i], b[i]));
  return out;
}

TEST(EveryKey, ChangesTheWeightsThatItIsAbout) {
  EXPECT_THAT(differ("method: rtn", "method: none"), ElementsAre(true, true, true, true, true, true));
  EXPECT_THAT(differ("weight: {bits: 4}", "weight: {bits: 3}"), ElementsAre(true, true, true, true, true, true));
  EXPECT_THAT(differ("weight: {group_size: 64}", "weight: {group_size: 16}"),
              ElementsAre(true, true, true, true, true, true));
  EXPECT_THAT(differ("weight: {group_size: -1}", "weight: {group_size: 0}"),
              ElementsAre(true, true, true, true, true, true));
  EXPECT_THAT(differ("{}", "rules: [{match: '*.down_proj', weight: {bits: 2}}]"),
              ElementsAre(false, true, false, true, false, true));
  EXPECT_THAT(differ("rules: [{match: '*.0.*', weight: {bits: 2}}]", "rules: [{match: '*.1.*', weight: {bits: 2}}]"),
              ElementsAre(true, true, true, true, false, false));
}

TEST(EveryKey, IsWrittenToTheResolvedFileAndReadsBackTheSame) {
  QuantConfig config =
      config_of("method: none\nweight: {bits: 3, group_size: -1}\nrules: [{match: '*', weight: {bits: 2}}]");
  const std::string resolved = core::to_yaml(core::to_node(config));
  QuantConfig again = config_of(resolved);
  EXPECT_EQ(core::to_yaml(core::to_node(again)), resolved);
}

TEST(EveryKey, ThatIsNotReadIsLeftOutOfTheResolvedFile) {
  for (const char* yaml : {"weight: {codebook: lloyd_max}", "weight: {symmetry: midrise}",
                           "weight: {bits: 1, codebook: levels, levels: [-1, 1]}"}) {
    QuantConfig config = config_of(yaml);
    const std::string resolved = core::to_yaml(core::to_node(config));
    QuantConfig again = config_of(resolved);
    EXPECT_EQ(core::to_yaml(core::to_node(again)), resolved);
    EXPECT_THAT(resolved, ::testing::Not(::testing::HasSubstr("zero_point")));
  }
}

}  // namespace
}  // namespace quant
