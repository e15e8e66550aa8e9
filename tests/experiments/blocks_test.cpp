// Replication of whole blocks in a run: the plan reaches the measurement, the checkpoint and the bill.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "core/io/csv.h"
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

// The states behind all blocks of the full-precision model, of which the second runs in the way that is told.
class RepeatedBlock : public ::testing::Test {
 protected:
  using Adds = std::function<at::Tensor(core::Block& block, const at::Tensor& x)>;

  // The mean loss of a run, and of the same by hand.
  void expect_the_loss_of(const std::string& depth, const Adds& second) {
    const Strings given{"quant.method=none", fmt::format("replication={{strategy: depth, depth: {}}}", depth)};
    const double measured = lab_.nll(given);
    const Spec spec = lab_.points({"quant.method=none"}).front().spec;
    const auto logits = [&](core::Model& model, const std::vector<int64_t>& ids) {
      at::Tensor x = model.embed(at::tensor(ids).unsqueeze(0));
      for (int64_t i = 0; i < model.shape().layers; ++i)
        x = i == 1 ? second(model.block(i), x) : model.block(i).forward(x, {.step = i});
      return model.logits(x)[0];
    };
    EXPECT_NEAR(measured, loss_by_hand(spec, logits), 1e-4) << depth;
    EXPECT_GT(std::abs(measured - lab_.nll({"quant.method=none"})), 1e-3) << depth;
  }
  const Lab lab_{shallow_model()};
};

TEST_F(RepeatedBlock, RunsOneHalfAgain) {
  expect_the_loss_of("{span: [1, 1], part: attention, gate_init: 0.5, kv: own}", [](auto& block, at::Tensor x) {
    x = block.forward(x, {});
    return x + 0.5 * block.attention(x, {});
  });
  expect_the_loss_of("{span: [1, 1], part: mlp, gate_init: 0.5, passes: 3}", [](auto& block, at::Tensor x) {
    x = block.forward(x, {});
    for (int pass = 0; pass < 2; ++pass) x = x + 0.5 * block.mlp(x, {});
    return x;
  });
}

TEST_F(RepeatedBlock, DampedTakesAllPassesInSmallerSteps) {
  expect_the_loss_of("{span: [1, 1], damped: true, passes: 3}", [](auto& block, at::Tensor x) {
    for (int pass = 0; pass < 3; ++pass) {
      x = x + block.attention(x, {}) / 3;
      x = x + block.mlp(x, {}) / 3;
    }
    return x;
  });
  expect_the_loss_of("{span: [1, 1], damped: true, part: attention}", [](auto& block, at::Tensor x) {
    x = x + block.attention(x, {}) / 2;
    x = x + block.mlp(x, {});
    return x + block.attention(x, {}) / 2;
  });
}

TEST_F(RepeatedBlock, IsWrittenAndBilledAsItRuns) {
  const auto row = [&](const std::string& depth) {
    return lab_.row({"quant={method: gptq, weight: {bits: 3, group_size: 64}}", "calibration.samples=4",
                     "calibration.seq_len=64", fmt::format("replication={{strategy: depth, depth: {}}}", depth)});
  };
  double macs = 0;
  for (const char* depth : {"{gate_init: 0.5, kv: own}", "{gate_init: 0.5, part: mlp}",
                            "{damped: true, part: attention}", "{damped: true}"}) {
    const Json one = row(depth);
    EXPECT_EQ(lab_.nll({"model.path=" + lab_.directory(one) + "/checkpoint", "quant.method=none"}), Lab::nll_of(one))
        << depth;
    const double all = one["macs_per_token"].get<double>();
    if (std::string(depth).find("part") == std::string::npos) {
      EXPECT_TRUE(macs == 0 || all == macs) << depth;
      macs = all;
    } else {
      EXPECT_LT(all, macs) << depth;
    }
  }
  const auto mistake = [&](const std::string& depth) { return core::message_of([&] { row(depth); }); };
  EXPECT_THAT(mistake("{damped: true, gate_init: 0.5}"), ::testing::HasSubstr("every pass adds 1 / passes"));
  EXPECT_THAT(mistake("{damped: true, kv: shared}"), ::testing::HasSubstr("damped: true has no use for keys"));
  EXPECT_THAT(mistake("{part: mlp, kv: shared}"), ::testing::HasSubstr("part: mlp has no use for keys"));
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

TEST(Blocks, CodesOfTheMeanServeTheFollowersBetter) {
  const Lab lab;
  const Strings given{"quant.method=gptq", "quant.weight.bits=2", "calibration.samples=4", "calibration.seq_len=64",
                      "replication.strategy=adjacent"};
  Strings mean = given;
  mean.push_back("replication.adjacent.from=mean");
  const Json first = lab.row(given), all = lab.row(mean);
  EXPECT_EQ(all["bits"]["with_parameters"], first["bits"]["with_parameters"]);
  EXPECT_NE(all["hashes"]["codes"], first["hashes"]["codes"]);
  const auto error_of = [&](const Json& row, const std::string& path) {
    const std::string file = lab.directory(row) + "/modules.csv";
    for (const auto& cells : core::parse_csv(core::slurp(file), file)) {
      if (cells[0] == path) return std::stod(cells[6]);
    }
    return -1.0;
  };
  for (const std::string linear : {"mlp.up_proj", "self_attn.o_proj"}) {
    EXPECT_GT(error_of(all, "model.layers.2." + linear), error_of(first, "model.layers.2." + linear)) << "the leader's";
    EXPECT_LT(error_of(all, "model.layers.3." + linear), error_of(first, "model.layers.3." + linear)) << "a follower's";
  }
  EXPECT_EQ(core::message_of([&] {
              Strings transformed = mean;
              transformed.emplace_back("transform=[{awq: {}}]");
              lab.row(transformed);
            }),
            "--set replication.strategy=adjacent: replication.strategy: adjacent looks at later blocks or steps before "
            "a transform has reached them. Remove the transform, or calibrate on the first one alone.");
}

TEST(Blocks, WithoutItsFollowersAModelStoresAsMuchAndRunsHalf) {
  const Lab lab;
  const Outcome outcome =
      lab.run({"quant.method=gptq", "quant.weight.bits=2", "calibration.samples=4", "calibration.seq_len=64",
               "replication={strategy: adjacent, controls: [followers_removed]}"});
  ASSERT_EQ(outcome.rows.size(), 2u);
  ASSERT_FALSE(outcome.failed);
  const Json &replica = outcome.rows[0], &removed = outcome.rows[1];
  EXPECT_EQ(removed["bits"]["codes"], replica["bits"]["codes"]) << "over the weights that they stand for";
  EXPECT_LT(removed["bits"]["with_parameters"], replica["bits"]["with_parameters"]);
  EXPECT_LT(removed["mac_multiplier"], 0.7);
  EXPECT_EQ(removed["kv_bytes_at_8192"], replica["kv_bytes_at_8192"].get<int64_t>() / 2);
  EXPECT_NE(Lab::nll_of(removed), Lab::nll_of(replica));
  EXPECT_EQ(outcome.controls.rows.size(), 1u);
  const std::string checkpoint = lab.directory(removed) + "/checkpoint";
  const Json again = lab.row({"quant={method: none}", "model.path=" + checkpoint, "model.residency=stream"});
  EXPECT_EQ(Lab::nll_of(again), Lab::nll_of(removed));
  EXPECT_EQ(again["bits"]["codes"], removed["bits"]["codes"]);
}

TEST(Blocks, ARepeatedBlockIsCalibratedOnItsFirstStepOrOnAll) {
  const Lab lab;
  for (const std::string kv : {"own", "shared"}) {
    const Strings given{
        "quant.method=gptq", "calibration.samples=4", "calibration.seq_len=64",
        "replication={strategy: depth, depth: {span: [2, 3], order: span, gate_init: 0.5, kv: " + kv + "}}"};
    Strings all_steps = given;
    all_steps.push_back("replication.depth.calibrate=all_steps");
    const Json first = lab.row(given), all = lab.row(all_steps), again = lab.row(all_steps, /*force=*/true);
    EXPECT_NE(all["hashes"]["codes"], first["hashes"]["codes"]);
    EXPECT_EQ(again["quantized"], all["quantized"]) << "statistics from the cache";
    const auto tokens_of = [&](const Json& row, const std::string& path) {
      const std::string file = lab.directory(row) + "/modules.csv";
      for (const auto& cells : core::parse_csv(core::slurp(file), file)) {
        if (cells[0] == path) return std::stoi(cells[8]);
      }
      return -1;
    };
    EXPECT_EQ(tokens_of(first, "model.layers.2.mlp.up_proj"), 4 * 64);
    EXPECT_EQ(tokens_of(all, "model.layers.2.mlp.up_proj"), 2 * 4 * 64);
    EXPECT_EQ(tokens_of(all, "model.layers.1.mlp.up_proj"), 4 * 64);
  }
}

TEST(Blocks, ControlsStoreAsMuchAsBlockAndReplicasTogether) {
  const Lab lab;
  const Strings given{"calibration.samples=4", "calibration.seq_len=64", "quant.weight.bits=2",
                      "replication={strategy: parallel, controls: [single, finer_groups]}"};
  const Outcome outcome = lab.run(given);
  ASSERT_EQ(outcome.rows.size(), 3u);
  ASSERT_FALSE(outcome.rows[2].contains("failed")) << outcome.rows[2].json();
  const double single = outcome.rows[0]["bits"]["with_parameters"],
               replica = outcome.rows[1]["bits"]["with_parameters"],
               control = outcome.rows[2]["bits"]["with_parameters"];
  EXPECT_GT(replica, single + 0.2);
  EXPECT_LE(control, replica);
  EXPECT_GE(control, 0.99 * replica);
  EXPECT_NEAR(outcome.rows[1]["replication"]["extra_bits"].get<double>(), replica - single, 1e-9);
  EXPECT_TRUE(outcome.rows[1]["replication"]["eta"].is_null());
  // Trained: every pass gets parameters, float zero points among them, and norms; the control is trained too.
  const Outcome trained = lab.run({"calibration.samples=4", "calibration.seq_len=64", "quant.weight.bits=2",
                                   "qat={steps: 1, batch: 2, held_out: 0.3, train: [scale, zero_point, norms]}",
                                   "replication={strategy: depth, controls: [finer_groups]}"});
  ASSERT_EQ(trained.rows.size(), 2u);
  ASSERT_FALSE(trained.rows[1].contains("failed")) << trained.rows[1].json();
  EXPECT_GT(trained.rows[0]["bits"]["with_parameters"], 2.9);
  EXPECT_LE(trained.rows[1]["bits"]["with_parameters"], trained.rows[0]["bits"]["with_parameters"]);
  EXPECT_GE(trained.rows[1]["bits"]["with_parameters"],
            0.99 * trained.rows[0]["bits"]["with_parameters"].get<double>());
}

TEST(Blocks, ABudgetCountsWhatReplicasOwn) {
  const Lab lab;
  const auto replicated = [&](const std::string& budget) {
    const Json row =
        lab.row({"calibration.samples=4", "calibration.seq_len=64",
                 "replication={strategy: parallel, select: {unit: block, policy: random, budget: " + budget + "}}"});
    return row["bits"]["with_parameters"].get<double>();
  };
  const double single = lab.row()["bits"]["with_parameters"];
  EXPECT_LE(replicated("0.1"), single + 0.1);
  EXPECT_GT(replicated("0.1"), single + 0.04) << "two of six blocks";
  EXPECT_THAT(core::message_of([&] { replicated("0.01"); }), ::testing::HasSubstr("budget"));
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
  // Gradients of shared keys and values reach the pass that makes them when every pass runs again.
  Strings again = trained;
  again.push_back("qat.recompute=true");
  const Json recomputed = lab.row(again);
  EXPECT_NE(recomputed["id"], after["id"]);
  EXPECT_NEAR(Lab::nll_of(recomputed), Lab::nll_of(after), 2e-3);
}

TEST(Blocks, TrainingOfBlocksReachesTheirReplicas) {
  const Lab lab;
  const std::string qat = "qat={steps: 6, batch: 2, warmup: 1, lr: 0.05, held_out: 0.3, scope: block}";
  const Strings given{"quant.weight.zero_point=float", "calibration.samples=8", "calibration.seq_len=64", qat};
  const auto row = [&](const std::string& replication) {
    Strings all = given;
    all.push_back("replication=" + replication);
    return lab.row(all);
  };
  const Json plain = lab.row(given);
  for (const std::string replication : {"{strategy: parallel}", "{strategy: depth, depth: {gate_init: 0.5}}"}) {
    const Json trained = row(replication);
    EXPECT_EQ(trained["hashes"]["codes"].is_null(), false);
    EXPECT_GT(trained["qat"]["trained_parameters"], plain["qat"]["trained_parameters"]) << replication;
    EXPECT_GT(trained["bits"]["with_parameters"], plain["bits"]["with_parameters"]) << replication;
    EXPECT_LT(trained["qat"]["held_out_after"], trained["qat"]["held_out_before"]) << replication;
  }
  // Where the passes of a block are apart, the first one is trained, and the others share what it has.
  const Json apart = row("{strategy: depth, depth: {gate_init: 0.5, order: span}}");
  EXPECT_EQ(apart["qat"]["trained_parameters"], plain["qat"]["trained_parameters"]);
}

// Side by side with one load of the codes, and in a row. (Resources at a tie go to the other side of an int8, as in
// runtime.linears: in the mean of many windows that is little.)
TEST(Blocks, RunPackedAsDecoded) {
  const Lab lab;
  for (const std::string replication :
       {"{strategy: parallel, parallel: {replicas: 3, jitter: 0.1}}", "{strategy: depth, depth: {gate_init: 0.5}}"}) {
    const Strings dense{"replication=" + replication, "measure.perplexity[0].corpus=tiny/valid",
                        "measure.perplexity[0].seq_len=256", "measure.perplexity[0].windows=40"};
    const auto with = [&](const Strings& more) {
      Strings all = dense;
      all.insert(all.end(), more.begin(), more.end());
      return lab.nll(all);
    };
    EXPECT_NEAR(with({"runtime.linears=packed", "runtime.rows=1000000"}), lab.nll(dense), 1e-5) << replication;
    EXPECT_NEAR(with({"runtime.linears=packed_int8", "runtime.rows=1000000"}),
                with({"quant.activation={bits: 8, symmetry: narrow, granularity: per_group, group_size: 32}"}), 1e-3)
        << replication;
  }
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
