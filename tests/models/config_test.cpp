// What a config.json may ask for, and the one line that refuses the rest.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/io/safetensors.h"
#include "core/nn/rotary.h"
#include "core/warn_once.h"
#include "models/registry.h"
#include "tests/models/support.h"
#include "tests/support/logged.h"

namespace {

using nlohmann::json;

// The config of a golden model with some keys replaced (null: removed), built; returns the message.
std::string refusal(const std::string& golden, const json& changes) {
  json config = json::parse(golden_file(golden, "config.json"));
  config.merge_patch(changes);
  return message_of([&] { models::build(core::JsonObject::parse(config.dump(), "config.json")); });
}

TEST(Config, OfTheGoldenModelsBuilds) {
  for (const std::string& name : golden_names()) EXPECT_EQ(refusal(name, json::object()), "") << name;
}

TEST(Config, UnknownModelTypeIsRefusedWithTheKnownOnes) {
  EXPECT_EQ(refusal("qwen2", {{"model_type", "mamba"}}),
            "config.json: model_type mamba is not implemented. Use a model of one of: llama, qwen2, qwen2_moe, qwen3, "
            "qwen3_moe, deepseek, deepseek_v2.");
}

TEST(Config, MixturesThatContradictThemselvesAreRefused) {
  const std::string advice = " Use the config.json of the original model.";
  EXPECT_EQ(refusal("qwen3_moe", {{"num_experts_per_tok", 9}}),
            "config.json: num_experts_per_tok is 9, but num_experts is 8." + advice);
  EXPECT_EQ(refusal("deepseek", {{"num_experts_per_tok", 7}}),
            "config.json: num_experts_per_tok is 7, but n_routed_experts is 6." + advice);
  EXPECT_EQ(refusal("deepseek", {{"first_k_dense_replace", -1}}),
            "config.json: first_k_dense_replace and n_shared_experts are counts." + advice);
  EXPECT_EQ(refusal("deepseek_v2", {{"num_key_value_heads", 2}}),
            "config.json: num_key_value_heads is 2, but latent attention makes keys for each of 4 heads." + advice);
}

TEST(Config, MixturesThatContradictTheTensorsAreRefused) {
  const std::string file = golden_directory("deepseek") + "/model.safetensors";
  const core::Weights weights(std::make_shared<core::Checkpoint>(core::Checkpoint::open(file)), at::kFloat, at::kCPU);
  const auto refusal = [&](const json& changes) {
    json config = json::parse(golden_file("deepseek", "config.json"));
    config.merge_patch(changes);
    const auto model = models::build(core::JsonObject::parse(config.dump(), "config.json"));
    return message_of([&] { model->check(weights); });
  };
  const std::string advice = "Use the config.json that belongs to this file.";
  EXPECT_EQ(refusal(json::object()), "");
  for (const int experts : {5, 7}) {
    EXPECT_EQ(refusal({{"n_routed_experts", experts}}),
              file + ": model.layers.1.mlp.gate.weight is [6, 24], config.json asks for [" + std::to_string(experts) +
                  ", 24]. " + advice);
  }
  EXPECT_EQ(
      refusal({{"moe_intermediate_size", 12}}),
      file + ": model.layers.1.mlp.experts.0.gate_proj.weight is [16, 24], config.json asks for [12, 24]. " + advice);
  EXPECT_EQ(refusal({{"n_shared_experts", 1}}),
            file + ": model.layers.1.mlp.shared_experts.gate_proj.weight is [32, 24], config.json asks for [16, 24]. " +
                advice);
  EXPECT_EQ(
      refusal({{"first_k_dense_replace", 0}}).find(file + ": there is no tensor `model.layers.0.mlp.gate.weight`"), 0u);
}

// A block too few, or parts that the family does not have: the model would be another one than that of the file.
TEST(Config, TensorsThatNothingReadsAreNamed) {
  const std::string file = golden_directory("qwen3_tied") + "/model.safetensors";
  const core::Weights weights(std::make_shared<core::Checkpoint>(core::Checkpoint::open(file)), at::kFloat, at::kCPU);
  const auto said = [&](const json& changes) {
    json config = json::parse(golden_file("qwen3_tied", "config.json"));
    config.merge_patch(changes);
    const auto model = models::build(core::JsonObject::parse(config.dump(), "config.json"));
    const Logged log;
    model->check(weights);
    return log.text();
  };
  EXPECT_EQ(said(json::object()), "");
  EXPECT_THAT(said({{"num_hidden_layers", 1}}),
              testing::AllOf(testing::StartsWith(file + ": 11 tensors are read by nothing: model.layers.1."),
                             testing::HasSubstr("Check that the configuration (layers, model_type, biases)")));
  EXPECT_THAT(core::warnings_about(file), testing::ElementsAre(testing::StartsWith(file + ": 11 tensors")));
  EXPECT_EQ(message_of([&] {
              said({{"num_hidden_layers", 1000000000}});
            }),
            "config.json: num_hidden_layers is 1000000000, more than 10000. Check it.");
}

TEST(Config, RoutingThatIsNotImplementedIsRefused) {
  EXPECT_EQ(refusal("deepseek_v2", {{"topk_method", "group_limited_greedy"}}),
            "config.json: topk_method is \"group_limited_greedy\". Only \"greedy\" is implemented.");
  EXPECT_EQ(refusal("deepseek", {{"scoring_func", "sigmoid"}}),
            "config.json: scoring_func is \"sigmoid\". Only \"softmax\" is implemented.");
  EXPECT_EQ(
      refusal("deepseek_v2", {{"model_type", "deepseek_v3"}}),
      "config.json: model_type deepseek_v3 is not implemented. Use a model of one of: llama, qwen2, qwen2_moe, qwen3, "
      "qwen3_moe, deepseek, deepseek_v2.");
}

TEST(Config, AnAlreadyQuantizedCheckpointIsRefused) {
  EXPECT_EQ(refusal("qwen2", {{"quantization_config", {{"quant_method", "gptq"}}}}),
            "config.json: quantization_config says that this checkpoint is already quantized. Use the full-precision "
            "checkpoint.");
}

TEST(Config, AnotherActivationIsRefused) {
  EXPECT_EQ(refusal("llama_biases", {{"hidden_act", "gelu"}}),
            "config.json: hidden_act is \"gelu\". Only \"silu\" is implemented.");
}

TEST(Config, AnActiveSlidingWindowIsRefused) {
  const json active{
      {"use_sliding_window", true}, {"sliding_window", 32}, {"max_window_layers", 1}, {"layer_types", nullptr}};
  EXPECT_EQ(refusal("qwen2", active),
            "config.json: use_sliding_window with sliding_window 32 is not implemented. Use a model with full "
            "attention in every "
            "layer.");
}

TEST(Config, AListedSlidingLayerIsRefused) {
  EXPECT_EQ(refusal("qwen3_tied", {{"layer_types", {"full_attention", "sliding_attention"}}}),
            "config.json: layer_types has sliding_attention, which is not implemented. Use a model with full attention "
            "in every "
            "layer.");
}

TEST(Config, ASlidingWindowThatNoLayerUsesIsFine) {
  EXPECT_EQ(refusal("qwen2", {{"sliding_window", 32}, {"layer_types", nullptr}}), "");
  EXPECT_EQ(
      refusal(
          "qwen2",
          {{"use_sliding_window", true}, {"sliding_window", 32}, {"max_window_layers", 2}, {"layer_types", nullptr}}),
      "");
}

TEST(Config, AnUnknownRopeIsRefusedWithTheKnownOnes) {
  EXPECT_EQ(refusal("llama_linear", {{"rope_scaling", {{"rope_type", "longrope"}}}}),
            "config.json: rope_scaling.rope_type is longrope, which is not implemented. Use a model with one of: "
            "default, linear, "
            "yarn, llama3.");
  EXPECT_EQ(refusal("llama_linear", {{"rope_scaling", {{"rope_type", nullptr}, {"type", "dynamic"}}}}),
            "config.json: rope_scaling.type is dynamic, which is not implemented. Use a model with one of: default, "
            "linear, yarn, "
            "llama3.");
}

TEST(Config, ImpossibleRopeNumbersAreRefused) {
  EXPECT_EQ(refusal("llama_linear", {{"rope_scaling", {{"factor", 0.5}}}}),
            "config.json: rope_scaling.factor is 0.5, must be at least 1. Use the config.json of the original model.");
  EXPECT_EQ(refusal("llama_llama3", {{"rope_scaling", {{"low_freq_factor", 4}}}}),
            "config.json: rope_scaling.low_freq_factor is 4 and high_freq_factor is 4, the first must be positive and "
            "smaller. Use "
            "the config.json of the original model.");
  EXPECT_EQ(refusal("qwen2", {{"rope_theta", 1}}),
            "config.json: rope_theta is 1, must be above 1. Use the config.json of the original model.");
}

TEST(Config, HeadsThatDoNotDivideAreRefused) {
  EXPECT_EQ(refusal("qwen2", {{"num_key_value_heads", 3}}),
            "config.json: 4 attention heads cannot share 3 key/value heads evenly. Check num_key_value_heads.");
  EXPECT_EQ(refusal("qwen2", {{"num_attention_heads", 10}}),
            "config.json: hidden_size 24 is not a multiple of 10 attention heads. Set head_dim.");
}

TEST(Config, AnOddHeadWidthIsRefused) {
  EXPECT_EQ(refusal("qwen3_tied", {{"head_dim", 7}}),
            "config.json: heads are 7 wide, rotary embedding needs an even width. Check head_dim.");
}

TEST(Config, AZeroSizeIsRefused) {
  for (const char* key : {"hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads",
                          "num_key_value_heads", "intermediate_size", "max_position_embeddings"}) {
    EXPECT_EQ(refusal("qwen2", {{key, 0}}), std::string("config.json: ") + key + " is 0. It must be at least 1.");
  }
}

TEST(Config, AMissingSizeIsRefused) {
  EXPECT_EQ(refusal("qwen2", {{"hidden_size", nullptr}}),
            "config.json: hidden_size is missing. Is this the configuration that belongs to the model?");
}

TEST(Config, NewerFilesKeepTheRotaryKeysInRopeParameters) {
  const json newer{{"rope_theta", nullptr},
                   {"rope_scaling", nullptr},
                   {"rope_parameters", {{"rope_type", "linear"}, {"factor", 3.0}, {"rope_theta", 500.0}}}};
  json config = json::parse(golden_file("llama_linear", "config.json"));
  json older = config;
  config.merge_patch(newer);
  older["rope_theta"] = 500.0;
  const auto frequencies = [](const json& keys) {
    return core::Rotary::from_config(core::JsonObject::parse(keys.dump(), "config.json"), 6).inverse_frequency();
  };
  EXPECT_TRUE(at::equal(frequencies(config), frequencies(older)));
}

}  // namespace
