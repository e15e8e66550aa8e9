// Rotated linears in whole runs: fewer bits lose less, and what is written, streamed or resumed is the same model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "replication/strategy.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

class IncoherentRuns : public testing::Test {
 protected:
  Strings with(const Strings& more) const {
    Strings all{"quant={method: gptq, weight: {bits: 2, group_size: 64, range: mse, incoherence: {hadamard: both}}}",
                "calibration.samples=8", "calibration.seq_len=64"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  const Lab lab_{kTinyModel};
};

TEST_F(IncoherentRuns, LoseLessAtTwoBits) {
  const double plain = lab_.nll(with({"quant.weight.incoherence.hadamard=none"}));
  const Json row = lab_.row(with({}));
  EXPECT_LT(Lab::nll_of(row), plain - 0.02);
  EXPECT_EQ(row["bits"]["with_parameters"],
            lab_.row(with({"quant.weight.incoherence.hadamard=none"}))["bits"]["with_parameters"]);
}

TEST_F(IncoherentRuns, AreWrittenAndReadBack) {
  const Json row = lab_.row(with({}));
  const std::string checkpoint = lab_.directory(row) + "/checkpoint";
  EXPECT_EQ(lab_.nll({"model.path=" + checkpoint, "quant.method=none"}), Lab::nll_of(row));
}

TEST_F(IncoherentRuns, AreStreamedWithTheSameNumbers) {
  const double resident = lab_.nll(with({"model.residency=resident"}));
  EXPECT_EQ(Lab::nll_of(lab_.row(with({"model.residency=stream"}), /*force=*/true)), resident);
}

// Codes that several linears share are of one basis, and parameters are fitted to what was coded.
TEST_F(IncoherentRuns, ComposeWithReplicationAndCorrectedTargets) {
  for (const auto& [name, strategy] : replication::make_strategies()) {
    const double nll = lab_.nll(
        {"quant={method: rtn, weight: {bits: 2, group_size: 64, incoherence: {hadamard: both}}}",
         "replication={strategy: " + name + (name == "row_column" ? ", row_column: {group_scale: true}}" : "}"),
         "calibration.samples=8", "calibration.seq_len=64"});
    EXPECT_LT(nll, 3) << name << ": codes in another basis than their parameters would give noise";
  }
  EXPECT_LT(lab_.nll(with({"calibration.targets=output"})), 2);
}

}  // namespace
}  // namespace experiments
