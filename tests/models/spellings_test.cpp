// Keys of config.json that files spell in several ways. What transformers 5.24 makes of them is the reference.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/io/safetensors.h"
#include "core/nn/rotary.h"
#include "models/registry.h"
#include "tests/models/support.h"
#include "tests/support/logged.h"

namespace {

using nlohmann::json;

// ---- the number of experts ----

// Experts of the last block of a golden model with some keys replaced (null: removed). where: stands in the messages,
// and is new for every warning that is expected, because a process logs a line once.
int64_t experts_of(const std::string& golden, const json& changes, const std::string& where = "config.json") {
  json config = json::parse(golden_file(golden, "config.json"));
  config.merge_patch(changes);
  const auto model = models::build(core::JsonObject::parse(config.dump(), where));
  const core::Mixture* mixture = model->block(model->shape().layers - 1).mixture();
  return mixture == nullptr ? 0 : mixture->experts();
}

TEST(Spellings, EveryFamilyReadsEverySpellingOfTheNumberOfExperts) {
  for (const std::string golden : {"qwen2_moe", "qwen3_moe", "deepseek", "deepseek_v2"}) {
    for (const char* key : {"num_experts", "num_local_experts", "n_routed_experts"}) {
      json changes{{"num_experts", nullptr}, {"num_local_experts", nullptr}, {"n_routed_experts", nullptr}};
      changes[key] = 11;
      const Logged log;
      EXPECT_EQ(experts_of(golden, changes), 11) << golden << " " << key;
      EXPECT_EQ(log.text(), "");
    }
  }
}

TEST(Spellings, WhereTheyDisagreeTheFamilyDecidesAndSaysSo) {
  const auto of = [](const std::string& golden, const json& changes) {
    const Logged log;
    const int64_t experts = experts_of(golden, changes, golden);
    return std::to_string(experts) + ", " + log.text();
  };
  EXPECT_EQ(of("qwen3_moe", {{"num_experts", 5}, {"num_local_experts", 7}}),
            "7, qwen3_moe: num_local_experts is 7, but num_experts is 5. num_local_experts is used, as transformers "
            "does.\n");
  EXPECT_EQ(of("qwen2_moe", {{"num_experts", 5}, {"num_local_experts", 7}}),
            "5, qwen2_moe: num_experts is 5, but num_local_experts is 7. num_experts is used, as transformers does.\n");
  EXPECT_EQ(of("deepseek", {{"n_routed_experts", 5}, {"num_experts", 7}}),
            "5, deepseek: n_routed_experts is 5, but num_experts is 7. n_routed_experts is used, as transformers "
            "does.\n");
  EXPECT_EQ(
      of("deepseek_v2", {{"n_routed_experts", 5}, {"num_experts", 7}}),
      "7, deepseek_v2: num_experts is 7, but n_routed_experts is 5. num_experts is used, as transformers does.\n");
  EXPECT_EQ(of("deepseek_v2", {{"n_routed_experts", 5}, {"num_experts", 5}}), "5, ");
}

TEST(Spellings, WithoutANumberOfExpertsDeepseekIsDenseAndQwenIsRefused) {
  EXPECT_EQ(experts_of("deepseek", {{"n_routed_experts", nullptr}}), 0);
  EXPECT_EQ(message_of([] {
              experts_of("qwen3_moe", {{"num_experts", nullptr}});
            }),
            "config.json: num_experts is missing. Is this the configuration that belongs to the model?");
}

TEST(Spellings, TheMixtureOfQwen2MayHaveNoBiases) {
  json config = json::parse(golden_file("qwen2_moe", "config.json"));
  const auto has_bias = [&] {
    return models::build(core::JsonObject::parse(config.dump(), "config.json"))->block(0).slots().front()->has_bias();
  };
  EXPECT_TRUE(has_bias());
  config["qkv_bias"] = false;
  EXPECT_FALSE(has_bias());
}

// ---- rotary keys ----

constexpr int64_t kHeadWidth = 6;

at::Tensor frequencies(json keys, const std::string& where = "config.json") {
  keys["max_position_embeddings"] = 64;
  return core::Rotary::from_config(core::JsonObject::parse(keys.dump(), where), kHeadWidth).inverse_frequency();
}

void expect_frequencies(const json& keys, double theta, double factor = 1) {
  const at::Tensor found = frequencies(keys);
  for (int64_t i = 0; i < kHeadWidth / 2; ++i) {
    const double exact = std::pow(theta, -2.0 * static_cast<double>(i) / kHeadWidth) / factor;
    EXPECT_NEAR(found[i].item<double>(), exact, 4 * 0x1p-24 * exact) << keys << " pair " << i;
  }
}

TEST(Spellings, RotaryKeysWithoutATypeAreOfTheDefaultType) {
  const Logged log;
  expect_frequencies({{"rope_parameters", {{"rope_theta", 777.0}}}}, 777);
  expect_frequencies({{"rope_theta", 777.0}, {"rope_parameters", json::object()}}, 777);
  expect_frequencies({{"rope_theta", 777.0}, {"rope_scaling", json::object()}}, 777);
  expect_frequencies({{"rope_theta", 777.0}, {"rope_scaling", nullptr}}, 777);
  expect_frequencies({{"rope_theta", 777.0}, {"rope_scaling", {{"type", nullptr}}}}, 777);
  expect_frequencies({{"rope_parameters", {{"unknown", 3}}}}, 10000);
  expect_frequencies({{"rope_scaling", json::object()},
                      {"rope_parameters", {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 777.0}}}},
                     777, 2);
  EXPECT_EQ(log.text(), "");
}

TEST(Spellings, RotaryKeysMayBeGivenPerTypeOfLayer) {
  const Logged log;
  expect_frequencies({{"rope_parameters", {{"full_attention", {{"rope_theta", 777.0}, {"rope_type", "default"}}}}}},
                     777);
  expect_frequencies({{"rope_theta", 777.0},
                      {"rope_parameters",
                       {{"full_attention", {{"rope_type", "linear"}, {"factor", 2.0}}},
                        {"sliding_attention", {{"rope_theta", 5.0}}}}}},
                     777, 2);
  EXPECT_EQ(log.text(), "");
  EXPECT_EQ(message_of([] {
              frequencies({{"rope_parameters", {{"sliding_attention", {{"rope_theta", 5.0}}}}}});
            }),
            "config.json: rope_parameters.sliding_attention is not implemented. Use a model with full attention in "
            "every layer.");
}

TEST(Spellings, RotaryKeysThatDisagreeAreDecidedAsInTransformersAndSaidSo) {
  const auto warning = [](const json& keys, const std::string& where) {
    const Logged log;
    frequencies(keys, where);
    return log.text();
  };
  const json both{{"rope_theta", 9.0},
                  {"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}},
                  {"rope_parameters", {{"rope_theta", 777.0}, {"rope_type", "default"}}}};
  EXPECT_EQ(warning(both, "a"),
            "a: rope_scaling and rope_parameters disagree. rope_scaling is used, as transformers does.\n");
  expect_frequencies(both, 9, 2);
  const json types{{"rope_scaling", {{"type", "default"}, {"rope_type", "linear"}, {"factor", 2.0}}}};
  EXPECT_EQ(warning(types, "b"),
            "b: rope_scaling.type is default, but rope_type is linear. rope_type is used, as transformers does.\n");
  expect_frequencies(types, 10000, 2);
  const json thetas{{"rope_theta", 5.0}, {"rope_parameters", {{"rope_theta", 777.0}}}};
  EXPECT_EQ(warning(thetas, "c"),
            "c: rope_theta is 5, but rope_parameters.rope_theta is 777. The latter is used, as transformers does.\n");
  expect_frequencies(thetas, 777);
  const json factor{{"rope_scaling", {{"factor", 2.0}}}};
  EXPECT_EQ(warning(factor, "d"),
            "d: rope_scaling.factor is ignored, because the type is default. Set rope_type if the context was "
            "stretched.\n");
  expect_frequencies(factor, 10000);
  const json same{{"rope_theta", 9.0},
                  {"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}},
                  {"rope_parameters", {{"rope_theta", 9.0}, {"rope_type", "linear"}, {"factor", 2}}}};
  EXPECT_EQ(warning(same, "e"), "");
}

TEST(Spellings, TheOriginalContextIsThatOfTheModelWhereTheRotaryKeysHaveNone) {
  for (const json& type : {json{{"rope_type", "llama3"}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}},
                           json{{"rope_type", "yarn"}}}) {
    json without = type, with = type;
    without["factor"] = with["factor"] = 4.0;
    with["original_max_position_embeddings"] = 64;
    EXPECT_TRUE(at::equal(frequencies({{"rope_scaling", without}}), frequencies({{"rope_scaling", with}}))) << type;
  }
}

// The softmax of deepseek_v2 reads the same keys as its frequencies.
TEST(Spellings, TheTemperatureOfLatentAttentionReadsTheSameKeys) {
  const at::Tensor ids = at::arange(12, at::kLong).reshape({1, 12});
  const auto logits = [&](const json& changes) {
    at::NoGradGuard no_gradient;
    json config = json::parse(golden_file("deepseek_v2", "config.json"));
    for (const char* key : {"rope_scaling", "rope_parameters", "rope_theta"}) config.erase(key);
    config.update(changes);
    const std::string directory = golden_directory("deepseek_v2");
    const core::Weights weights(std::make_shared<core::Checkpoint>(core::Checkpoint::open(directory)), at::kFloat,
                                at::kCPU);
    const auto model = models::build(core::JsonObject::parse(config.dump(), "config.json"));
    core::load(*model, weights);
    return model->forward(ids);
  };
  const json yarn{{"rope_type", "yarn"}, {"factor", 8.0}, {"mscale", 1.0}, {"mscale_all_dim", 2.0}};
  json older = yarn, plain = yarn;
  older.erase("rope_type");
  older["type"] = "yarn";
  plain["rope_type"] = "default";
  const at::Tensor expected = logits({{"rope_parameters", yarn}});
  EXPECT_TRUE(at::equal(logits({{"rope_scaling", older}}), expected));
  EXPECT_TRUE(at::equal(logits({{"rope_scaling", older}, {"rope_parameters", json::object()}}), expected));
  EXPECT_TRUE(at::equal(logits({{"rope_parameters", {{"full_attention", yarn}}}}), expected));
  EXPECT_FALSE(at::allclose(logits(json::object()), expected));
  EXPECT_TRUE(at::equal(logits({{"rope_scaling", plain}}), logits(json::object())));
}

}  // namespace
