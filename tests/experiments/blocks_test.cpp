// Replication of whole blocks in a run: the plan reaches the measurement, the checkpoint and the bill.
#include <gtest/gtest.h>

#include "core/io/files.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

TEST(Blocks, BehindClosedGatesTheRunIsThatWithoutReplication) {
  const Lab lab;
  const Strings given{"quant.method=gptq", "quant.weight.bits=2", "calibration.samples=4", "calibration.seq_len=64"};
  Strings closed = given;
  closed.push_back("replication.strategy=depth");
  const Json plain = lab.row(given), doubled = lab.row(closed);
  EXPECT_NE(doubled["id"], plain["id"]);
  EXPECT_EQ(doubled["quantized"]["perplexity"], plain["quantized"]["perplexity"]);
  EXPECT_EQ(doubled["hashes"]["codes"], plain["hashes"]["codes"]);
  EXPECT_EQ(doubled["bits"]["codes"], plain["bits"]["codes"]);
  EXPECT_EQ(doubled["replication"]["strategy"], "depth");
  EXPECT_GT(doubled["mac_multiplier"], 1.5);
  EXPECT_EQ(doubled["kv_bytes_at_8192"], plain["kv_bytes_at_8192"]) << "keys and values of the first pass";
  Strings own = closed;
  own.push_back("replication.depth.kv=own");
  EXPECT_EQ(lab.row(own)["kv_bytes_at_8192"], 2 * plain["kv_bytes_at_8192"].get<int64_t>());
}

TEST(Blocks, ThePlanRunsOnTheFullPrecisionModelToo) {
  const Lab lab;
  const Strings given{"quant={method: none}", "replication={strategy: depth, depth: {span: [2, 3], kv: own}}"};
  const Json closed = lab.row(given);
  EXPECT_EQ(Lab::nll_of(closed), closed["baseline"]["perplexity"][0]["nll"].get<double>());
  Strings open = given;
  open.push_back("replication.depth.gate_init=1.0");
  const Json opened = lab.row(open);
  EXPECT_GT(Lab::nll_of(opened), Lab::nll_of(closed) + 1e-3);
  EXPECT_GT(opened["quantized"]["perplexity"][0]["kl_mean"], 1e-3);
  // Residency changes no bit: the gates outlive the blocks that come and go.
  open.push_back("model.residency=stream");
  EXPECT_EQ(Lab::nll_of(lab.row(open, /*force=*/true)), Lab::nll_of(opened));
}

TEST(Blocks, NeighboursThatShareCodesStoreThemOnce) {
  const Lab lab;
  const Strings given{"quant.method=gptq", "quant.weight.bits=2", "calibration.samples=4", "calibration.seq_len=64"};
  Strings shared = given;
  shared.push_back("replication.strategy=adjacent");
  const Json plain = lab.row(given), adjacent = lab.row(shared);
  EXPECT_EQ(adjacent["bits"]["codes"], plain["bits"]["codes"]) << "half of the blocks, twice the bits";
  EXPECT_EQ(adjacent["mac_multiplier"], plain["mac_multiplier"]);
  EXPECT_NE(Lab::nll_of(adjacent), Lab::nll_of(plain));
  // The checkpoint is the model: measured from its directory it gives the same.
  const Json again = lab.row({"quant={method: none}", "model.path=" + lab.directory(adjacent) + "/checkpoint"});
  EXPECT_EQ(Lab::nll_of(again), Lab::nll_of(adjacent));
  EXPECT_EQ(again["bits"]["codes"], adjacent["bits"]["codes"]);
}

TEST(Blocks, TrainingTellsThePassesApartAndLeavesTheCodes) {
  const Lab lab;
  const Strings given{"quant.weight.bits=2", "quant.weight.zero_point=float",
                      "replication={strategy: depth, depth: {span: [2, 3], kv: shared}}"};
  Strings trained = given;
  trained.insert(trained.end(), {"qat={steps: 2, batch: 2, held_out: 0.3, train: [scale, zero_point, gates, norms]}",
                                 "calibration.samples=4", "calibration.seq_len=64"});
  const Json before = lab.row(given), after = lab.row(trained);
  EXPECT_EQ(after["hashes"]["codes"], before["hashes"]["codes"]);
  EXPECT_NE(Lab::nll_of(after), Lab::nll_of(before));
  // Scales and zeros of 16 bits a group of 64 of two blocks of six, and norms.
  EXPECT_GT(after["bits"]["with_parameters"].get<double>(), before["bits"]["with_parameters"].get<double>() + 0.16);
  EXPECT_EQ(
      core::message_of([&] {
        Strings again = trained;
        again.back() = "qat.recompute=true";
        lab.row(again);
      }),
      "--set qat.recompute=true: qat.recompute: a step of the plan attends to the keys of another one, and cannot "
      "run again alone. Set replication.depth.kv: own, or leave recompute out.");
}

TEST(Blocks, AQuantizedModelWithoutAPlanCanBeRunByOne) {
  const Lab lab;
  const std::string plain = lab.directory(lab.row()) + "/checkpoint";
  const std::string depth = "replication={strategy: depth, depth: {span: [1, 3], order: span, gate_init: 0.5}}";
  EXPECT_EQ(Lab::nll_of(lab.row({"quant={method: none}", "model.path=" + plain, depth})),
            Lab::nll_of(lab.row({depth})));
  EXPECT_EQ(core::message_of([&] {
              lab.row({"quant={method: none}", "replication={strategy: parallel}"});
            }),
            "--set replication={strategy: parallel}: replication.strategy: parallel uses codes several times, but "
            "quant.method: none makes none. Choose a method.");
}

TEST(Blocks, AModelThatIsQuantizedHasItsPlan) {
  const Lab lab;
  const Json made = lab.row({"replication={strategy: parallel}"});
  const std::string checkpoint = lab.directory(made) + "/checkpoint";
  EXPECT_EQ(Lab::nll_of(lab.row({"quant={method: none}", "model.path=" + checkpoint})), Lab::nll_of(made));
  EXPECT_EQ(core::message_of([&] {
              lab.row({"quant={method: none}", "model.path=" + checkpoint, "replication={strategy: depth}"});
            }),
            "--set replication={strategy: depth}: replication.strategy: " + checkpoint +
                " has a plan of its own. Replicate when it is quantized.");
}

}  // namespace
}  // namespace experiments
