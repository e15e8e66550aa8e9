// Streamed and resident runs: the same bits in every number, whatever lies in memory and whatever on disk.
#include <gmock/gmock.h>

#include "core/machine.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

class Streaming : public ::testing::Test {
 protected:
  // windows.csv and the hash of all codes of a run in a lab of its own.
  std::pair<std::string, Json> outcome(Strings overrides) const {
    overrides.push_back("measure.perplexity[0].corpus=" + text_.file("text.txt"));
    const Lab lab;
    const Json row = lab.row(overrides);
    return {core::slurp(lab.directory(row) + "/windows.csv"), row["hashes"]["codes"]};
  }
  const Lab text_;
};

TEST_F(Streaming, GivesTheSameBitsAsResidentWithAndWithoutSpilledStates) {
  for (const char* method : {"quant.method=rtn", "quant.method=none"}) {
    SCOPED_TRACE(method);
    const auto resident = outcome({method, "model.residency=resident"});
    EXPECT_EQ(outcome({method, "model.residency=stream"}), resident);
    EXPECT_EQ(outcome({method, "model.residency=stream", "model.spill_above=0"}), resident);
    EXPECT_EQ(outcome({method, "model.residency=resident", "model.spill_above=0.00005"}), resident);
  }
}

TEST_F(Streaming, StaticActivationsAndQuantizedEndsToo) {
  const Strings all{"quant.method=gptq", "calibration.samples=4", "calibration.seq_len=64",
                    "quant.activation={bits: 6, mode: static, granularity: per_tensor, range: mse}",
                    "quant.rules=[{match: \"*embed_tokens\", weight: {bits: 4}}, {match: lm_head, weight: {bits: 4}}, "
                    "{match: \"*.down_proj\", weight: {bits: 16}}]"};
  const auto with = [&](const char* residency) {
    Strings some = all;
    some.push_back(residency);
    return outcome(some);
  };
  EXPECT_EQ(with("model.residency=stream"), with("model.residency=resident"));
}

TEST_F(Streaming, AMethodThatRunsTheBlockOnBothStreamsToo) {
  const Strings all{"quant.method=signround", "quant.signround.iterations=4", "calibration.samples=4",
                    "calibration.seq_len=64", "quant.rules=[{match: \"*embed_tokens\", weight: {bits: 4}}]"};
  const auto with = [&](const Strings& more) {
    Strings some = all;
    some.insert(some.end(), more.begin(), more.end());
    return outcome(some);
  };
  const auto resident = with({"model.residency=resident"});
  EXPECT_EQ(with({"model.residency=stream", "model.spill_above=0"}), resident);
}

TEST_F(Streaming, ACheckpointOfOursIsStreamedWithTheSameBits) {
  const Lab lab;
  const std::string checkpoint = lab.directory(lab.row()) + "/checkpoint";
  const Strings measured{"model.path=" + checkpoint, "quant.method=none"};
  const auto with = [&](const char* residency) {
    Strings all = measured;
    all.push_back(residency);
    return outcome(all);
  };
  EXPECT_EQ(with("model.residency=stream"), with("model.residency=resident"));
}

TEST_F(Streaming, AutoStreamsWhatWouldFillMoreThanHalfOfTheMemory) {
  Inputs inputs("");
  const auto residency = [&](const char* key) {
    const Spec spec = text_.points({key}).front().spec;
    return residency_of(spec, weights_of(spec, inputs.model(spec.model.path)));
  };
  const Spec spec = text_.points().front().spec;
  const core::Weights weights = weights_of(spec, inputs.model(spec.model.path));
  EXPECT_EQ(weights.bytes_in_memory(), 2 * static_cast<int64_t>(weights.checkpoint().total_bytes()))
      << "the file holds bfloat16, float32 is computed with";
  EXPECT_LT(weights.bytes_in_memory(), core::memory_bytes() / 2);
  EXPECT_EQ(residency("model.residency=auto"), exports::Residency::resident);
  EXPECT_EQ(residency("model.residency=stream"), exports::Residency::stream);
}

}  // namespace
}  // namespace experiments
