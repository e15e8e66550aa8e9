// Predicted costs against the bill of a model that exists, and the roofline by hand.
#include "experiments/programs/machine_model.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/io/hf_config.h"
#include "models/registry.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

std::shared_ptr<core::Model> tiny() { return models::build(core::read_hf_config(kTinyModel)); }
constexpr int64_t kBlocks = 6 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 256 * 128);  // weights
constexpr int64_t kSide = kBlocks / 64 * 2;                                      // bytes of one set of scales

// Norms are priced at nothing: no file says in how many bits they are stored.
TEST(Price, IsTheBillOfTheQuantizedModel) {
  const Lab lab;
  const Json row = lab.row({"quant.weight.symmetry=midrise"});
  const Price price = price_of(*tiny(), {.bits = 2, .group_size = 64}, 0, 0);
  const int64_t norms = 2 * (6 * (2 * 128 + 2 * 32) + 128);  // bytes
  EXPECT_EQ(price.bytes() + norms, row["weight_bytes_per_token"].get<int64_t>());
  EXPECT_EQ(price.coded_bytes, kBlocks / 4 + kSide);
  EXPECT_EQ(price.coded_macs, kBlocks);
  EXPECT_EQ(price.coded_macs + 1024 * 128, row["macs_per_token"].get<int64_t>());
  EXPECT_EQ(price.file_bytes, price.coded_bytes + 2 * 1024 * 128);
}

TEST(Price, OfReplicas) {
  const auto priced = [](const std::string& kind, int64_t replicas, int64_t cache = 0) {
    return price_of(*tiny(), {.bits = 2, .group_size = 64, .kind = kind, .replicas = replicas}, 0, cache);
  };
  EXPECT_EQ(priced(kLinear, 4).coded_bytes, kBlocks / 4 + 4 * kSide);
  EXPECT_EQ(priced(kLinear, 4).coded_macs, kBlocks) << "the kernel's time per weight knows of R";
  EXPECT_EQ(priced(kParallel, 2).file_bytes, priced(kLinear, 2).file_bytes);
  const int64_t keys = 6 * 2 * 64 * 128;  // weights that only the first pass or replica runs, for the keys of all
  EXPECT_EQ(priced(kParallel, 4).coded_bytes, kBlocks / 4 + 4 * kSide - 3 * (keys / 64 * 2));
  EXPECT_EQ(priced(kDepth, 2).coded_macs, 2 * kBlocks - keys);
  EXPECT_EQ(priced(kDepth, 2).coded_bytes, 2 * (kBlocks / 4 + kSide) - (keys / 4 + keys / 64 * 2));
  EXPECT_LT(priced(kDepth, 2, 1 << 20).coded_bytes, kBlocks / 4 + 2 * kSide + 1) << "the cache holds a block";
}

// A token that is sent to 6 of 64 experts reads the scales of those.
TEST(Price, OfReplicasOfExperts) {
  const auto json = core::JsonObject::read(std::string(REFRAIN_SOURCE_DIR) + "/data/shapes/deepseek-v2-lite.json");
  const auto bytes = [&](const std::string& kind, int64_t replicas) {
    return static_cast<double>(price_of(*models::build(json), {.kind = kind, .replicas = replicas}, 0, 0).coded_bytes);
  };
  const double one = bytes(kLinear, 1), sets = bytes(kLinear, 2) - one;
  EXPECT_LT(bytes(kParallel, 2) - one, sets) << "keys and values have no second set";
  EXPECT_GT(bytes(kParallel, 2) - one, 0.9 * sets);
}

TEST(Price, CountsKeysAndValuesOfTheContext) {
  EXPECT_EQ(price_of(*tiny(), {}, 100, 0).kv_bytes, 6 * 2 * 2 * 32 * 100 * 2);
}

TEST(Prediction, IsTheLargerOfMemoryAndComputingAndWhatOnlyWaits) {
  const Price price{.coded_bytes = 1000, .other_bytes = 100, .kv_bytes = 50, .coded_macs = 4000};
  const Prediction by_memory = predict(price, {.bandwidth = 100, .seconds_per_weight = 0.001});
  EXPECT_DOUBLE_EQ(by_memory.memory_seconds, 10);
  EXPECT_DOUBLE_EQ(by_memory.compute_seconds, 4);
  EXPECT_DOUBLE_EQ(by_memory.token_seconds, 11.5);
  EXPECT_DOUBLE_EQ(predict(price, {.bandwidth = 100, .seconds_per_weight = 0.005}).token_seconds, 21.5);
  EXPECT_DOUBLE_EQ(predict(price, {.bandwidth = 100}).tokens_per_s(), 1 / 11.5) << "computing that is not known";
}

TEST(Shapes, OfDataAreModelsThatAreKnown) {
  for (const auto& [name, billions] : {std::pair{"qwen2.5-32b", 32.8}, std::pair{"deepseek-v2-lite", 15.7}}) {
    const auto model =
        models::build(core::JsonObject::read(std::string(REFRAIN_SOURCE_DIR) + "/data/shapes/" + name + ".json"));
    double weights = static_cast<double>(2 * model->shape().vocabulary * model->shape().width);
    for (const core::Slot* slot : model->slots())
      weights += static_cast<double>(slot->out_features() * slot->in_features());
    EXPECT_NEAR(1e-9 * weights, billions, 0.06) << name << ": as published";
  }
}

TEST(Kernel, TakesTime) {
  const double seconds = kernel_seconds_per_weight({.bits = 2, .group_size = 64, .replicas = 4});
  EXPECT_GT(seconds, 0);
  EXPECT_TRUE(std::isfinite(seconds));
}

}  // namespace
}  // namespace experiments
