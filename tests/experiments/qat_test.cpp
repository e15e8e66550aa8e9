// Training inside a run: what it finds, what it leaves behind, what it refuses.
#include <gmock/gmock.h>

#include <filesystem>

#include "core/io/csv.h"
#include "core/io/files.h"
#include "core/io/safetensors.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

namespace fs = std::filesystem;

using ::testing::HasSubstr;

class Qat : public ::testing::Test {
 protected:
  // A short training on the embedded text, and further assignments.
  Strings with(const Strings& more) const {
    Strings all{"calibration.corpus=tiny/train",
                "qat.steps=12",
                "qat.batch=8",
                "qat.seq_len=64",
                "qat.warmup=2",
                "qat.lr=0.01",
                "qat.eval_every=4",
                "qat.held_out_windows=8"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  static Lab& lab() {  // one for all: what a case has run, the others find finished
    static Lab lab;
    return lab;
  }
  const Lab& lab_ = lab();
};

TEST_F(Qat, LowersTheLossWithTheSameCodes) {
  const Json plain = lab_.row({"quant.weight.zero_point=float"}),
             trained = lab_.row(with({"quant.weight.zero_point=float"}));
  EXPECT_TRUE(plain["qat"].is_null());
  EXPECT_EQ(trained["hashes"]["codes"], plain["hashes"]["codes"]);
  EXPECT_EQ(trained["bits"]["with_parameters"], plain["bits"]["with_parameters"]);
  const Json& qat = trained["qat"];
  EXPECT_LT(qat["held_out_after"].get<double>(), 0.8 * qat["held_out_before"].get<double>());
  EXPECT_LT(trained["quantized"]["perplexity"][0]["kl_mean"].get<double>(),
            0.8 * plain["quantized"]["perplexity"][0]["kl_mean"].get<double>());
  EXPECT_EQ(qat["objective"], "kl");
  EXPECT_EQ(qat["parts"].size(), 1u);
  EXPECT_EQ(qat["parts"][0]["name"], "model");
  EXPECT_EQ(qat["parts"][0]["steps"], 12);
  EXPECT_TRUE(qat["parts"][0]["stopped"].is_null());
  EXPECT_EQ(qat["tokens"], 12 * 8 * 64);
  EXPECT_EQ(qat["float_zero_points"], 0);
}

TEST_F(Qat, LeavesALogAndACheckpointThatIsMeasured) {
  const Json row = lab_.row(with({}));
  const std::string directory = lab_.directory(row);
  const auto log = core::parse_csv(core::slurp(directory + "/qat_log.csv"), "qat_log.csv");
  EXPECT_EQ(log[0], (Strings{"part", "step", "loss", "held_out_loss", "lr", "grad_norm", "seconds"}));
  ASSERT_EQ(log.size(), 1u + 13u);
  EXPECT_EQ(log[1][3], core::csv_cell(row["qat"]["held_out_before"].get<double>()));
  EXPECT_EQ(log[2][3], "") << "it is looked at every fourth step";
  EXPECT_FALSE(fs::exists(directory + "/untrained"));
  EXPECT_FALSE(fs::exists(directory + "/progress"));
  // The checkpoint is a model of its own.
  const Json again = lab_.row({"model.path=" + directory + "/checkpoint", "quant.method=none"});
  EXPECT_EQ(Lab::nll_of(again), Lab::nll_of(row));
  EXPECT_EQ(again["bits"]["with_parameters"], row["bits"]["with_parameters"]);
}

TEST_F(Qat, StoresTrainedIntegerZeroPointsAsFloatsAndBillsThem) {
  const Json row = lab_.row(with({}));
  EXPECT_EQ(row["bits"]["with_parameters"], 2 + (16 + 16) / 64.0);
  EXPECT_GT(row["qat"]["float_zero_points"].get<int64_t>(), 0);
  const Json scales = lab_.row(with({"qat.train=[scale]"}));
  EXPECT_EQ(scales["bits"]["with_parameters"], 2 + (16 + 2) / 64.0);
  EXPECT_EQ(scales["qat"]["float_zero_points"], 0);
  const auto weights = core::Checkpoint::open(lab_.directory(row) + "/checkpoint");
  EXPECT_EQ(weights.at("model.layers.0.mlp.up_proj.zero_point").dtype, core::DType::F16);
}

TEST_F(Qat, CountsWhatItTrains) {
  const Json row = lab_.row(with({"qat.train=[scale]"}));
  const auto checkpoint = core::Checkpoint::open(lab_.directory(row) + "/checkpoint");
  int64_t scales = 0;
  for (const std::string& name : checkpoint.names())
    scales += name.ends_with(".scale") ? static_cast<int64_t>(checkpoint.at(name).bytes / 2) : 0;
  EXPECT_EQ(row["qat"]["trained_parameters"], scales);
  const double share = static_cast<double>(scales) * 2 / static_cast<double>(checkpoint.total_bytes());
  EXPECT_NEAR(row["qat"]["trained_bits_share"].get<double>(), share, 0.01 * share)
      << "rows of zero codes end on a byte";
}

TEST_F(Qat, TrainsATableThatIsLookedUpAndMultiplied) {
  const Json row =
      lab_.row(with({"quant.rules=[{match: model.embed_tokens, weight: {bits: 4}}, "
                     "{match: lm_head, weight: {bits: 4}}]",
                     "qat.lr=0.003"}));
  EXPECT_EQ(row["qat"]["parts"][0]["steps"], 12);
  EXPECT_LT(row["qat"]["held_out_after"], row["qat"]["held_out_before"]);
}

TEST_F(Qat, TwoRunsHaveTheSameBitsAndAnotherSeedDoesNot) {
  const Lab other;
  const Strings given = with({"measure.perplexity[0].corpus=" + lab_.file("text.txt"), "qat.steps=3"});
  const double first = lab_.nll(given);
  EXPECT_EQ(other.nll(given), first);
  Strings another = given;
  another.push_back("seed=1");
  EXPECT_NE(lab_.nll(another), first) << "another order of the windows";
}

TEST_F(Qat, RecomputingBlocksChangesRoundingOnly) {  // inputs of blocks are then made by the fused loops
  EXPECT_NEAR(lab_.nll(with({"qat.recompute=true"})), lab_.nll(with({})), 1e-3);
}

TEST_F(Qat, KeepsHeldOutTextFromCalibrationOnTheSameText) {
  const Strings gptq{"quant.method=gptq", "calibration.samples=4", "calibration.seq_len=64",
                     "calibration.corpus=tiny/train"};
  const auto tokens = [&](const Strings& more) {
    Strings all = gptq;
    all.insert(all.end(), more.begin(), more.end());
    return lab_.row(all)["hashes"];
  };
  const Json plain = tokens({}), reserved = tokens({"qat.held_out=0.5"}),
             trained = tokens(with({"qat.held_out=0.5", "qat.steps=1"}));
  EXPECT_NE(reserved["calibration_tokens"], plain["calibration_tokens"]);
  EXPECT_EQ(reserved["calibration_tokens"], trained["calibration_tokens"]) << "runs without training compare with it";
  EXPECT_EQ(reserved["codes"], trained["codes"]);
  const Json elsewhere = tokens(with({"qat.held_out_corpus=tiny/valid", "qat.steps=1"}));
  EXPECT_EQ(elsewhere["calibration_tokens"], plain["calibration_tokens"]);
}

TEST_F(Qat, EveryObjectiveLowersItself) {
  for (const std::string objective : {"kl", "ce", "hidden"}) {
    const Json qat = lab_.row(with({"qat.objective=" + objective}))["qat"];
    EXPECT_EQ(qat["objective"], objective);
    EXPECT_LT(qat["held_out_after"].get<double>(), qat["held_out_before"].get<double>()) << objective;
  }
}

TEST_F(Qat, ALossThatIsNotFiniteEndsTrainingAndKeepsTheBest) {
  const Json row = lab_.row(with({"qat.lr=90", "qat.warmup=0", "qat.clip_norm=0"}));
  const Json& qat = row["qat"];
  EXPECT_LE(qat["held_out_after"].get<double>(), qat["held_out_before"].get<double>());
  EXPECT_TRUE(std::isfinite(Lab::nll_of(row)));
}

TEST_F(Qat, TrainsScalesOfStaticActivations) {
  const Strings given =
      with({"quant.activation.bits=4", "quant.activation.mode=static", "quant.activation.granularity=per_tensor",
            "calibration.samples=4", "calibration.seq_len=64", "qat.train=[activation_scale, activation_zero_point]",
            "quant.rules=[{match: \"*.down_proj\", weight: {bits: 16}}]", "quant.weight.range=minmax"});
  const Json row = lab_.row(given);
  EXPECT_LT(row["qat"]["held_out_after"].get<double>(), row["qat"]["held_out_before"].get<double>());
  const Json again = lab_.row({"model.path=" + lab_.directory(row) + "/checkpoint", "quant.method=none"});
  EXPECT_EQ(Lab::nll_of(again), Lab::nll_of(row));
}

// ---- blocks ----

TEST_F(Qat, TrainsBlockByBlockInsideTheWalk) {
  const Strings gptq{"quant.method=gptq",      "calibration.targets=weight",    "calibration.samples=16",
                     "calibration.seq_len=64", "quant.weight.zero_point=float", "qat.held_out=0.05"};
  Strings given = with(gptq);
  given.push_back("qat.scope=block");
  const Json plain = lab_.row(gptq), blocks = lab_.row(given);
  EXPECT_LT(blocks["quantized"]["perplexity"][0]["kl_mean"].get<double>(),
            0.95 * plain["quantized"]["perplexity"][0]["kl_mean"].get<double>());
  const Json& qat = blocks["qat"];
  EXPECT_EQ(qat["objective"], "block_mse");
  given.push_back("qat.objective=block_token_mse");
  const Json by_token = lab_.row(given);
  EXPECT_EQ(by_token["qat"]["objective"], "block_token_mse");
  EXPECT_NE(Lab::nll_of(by_token), Lab::nll_of(blocks));
  ASSERT_EQ(qat["parts"].size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    const Json& part = qat["parts"][i];
    EXPECT_EQ(part["name"], "block " + std::to_string(i));
    EXPECT_LT(part["held_out_after"].get<double>(), part["held_out_before"].get<double>()) << i;
  }
  EXPECT_EQ(qat["tokens"], 6 * 12 * 8 * 64);
  EXPECT_FALSE(fs::exists(lab_.directory(blocks) + "/untrained"));
}

// Codes are trained with the scales of their block, on grids and in windows, and then the scales of the model.
TEST_F(Qat, TrainsCodesOfBlocks) {
  const Lab other;
  for (const Strings& format : {Strings{"quant.method=gptq", "quant.weight.symmetry=midrise"},
                                Strings{"quant.method=ldlq", "replication.strategy=parity_sign"}}) {
    Strings given{
        "calibration.samples=16", "calibration.seq_len=64", "qat.batch=4",     "qat.warmup=2",     "qat.lr=0.01",
        "qat.held_out=0.05",      "qat.steps=12",           "qat.scope=block", "qat.eval_every=4", "qat.train=[scale]"};
    given.insert(given.end(), format.begin(), format.end());
    Strings codes = given;
    codes.insert(codes.end(), {"qat.train=[codes, scale]", "qat.codes_lr=0.1", "qat.encode_every=4"});
    const Json scales = lab_.row(given), row = lab_.row(codes);
    EXPECT_NE(row["hashes"]["codes"], scales["hashes"]["codes"]);
    EXPECT_EQ(row["bits"]["with_parameters"], scales["bits"]["with_parameters"]);
    for (size_t i = 0; i < 6; ++i) {
      const Json& part = row["qat"]["parts"][i];
      EXPECT_LE(part["held_out_after"].get<double>(), part["held_out_before"].get<double>()) << i;
    }
    // What was trained is what is saved, and what is measured.
    codes.push_back("measure.perplexity[0].corpus=" + lab_.file("text.txt"));
    EXPECT_EQ(other.row(codes)["quantized"], row["quantized"]);
    const Json again = lab_.row({"model.path=" + lab_.directory(row) + "/checkpoint", "quant.method=none"});
    EXPECT_EQ(Lab::nll_of(again), Lab::nll_of(row));
  }
}

// With enough steps, blocks lose less than by their scales alone.
TEST(Codes, OfGridsThatAreTrainedLowerTheErrorOfTheirBlock) {
  const Lab lab(shallow_model());
  Strings given{"quant.method=gptq",
                "quant.weight.symmetry=midrise",
                "calibration.samples=64",
                "calibration.seq_len=128",
                "qat.batch=8",
                "qat.lr=0.005",
                "qat.held_out=0.05",
                "qat.steps=120",
                "qat.scope=block",
                "qat.train=[scale]"};
  const auto error = [&] {
    const Json row = lab.row(given);
    double sum = 0;
    for (const Json& part : row["qat"]["parts"]) sum += part["held_out_after"].get<double>();
    return sum;
  };
  const double by_scales = error();
  given.back() = "qat.train=[codes, scale]";
  EXPECT_LT(error(), 0.95 * by_scales);
}

TEST_F(Qat, BlocksAreQuantizedBehindTrainedOnesByStatisticsWithoutHeldOutText) {
  const Strings gptq{"quant.method=gptq", "calibration.samples=4", "calibration.seq_len=64", "qat.held_out=0.05",
                     "calibration.corpus=tiny/train"};
  Strings given = with(gptq);
  given.insert(given.end(), {"qat.scope=block"});
  const auto codes = [&](const Json& row, const std::string& linear) {
    const auto checkpoint = core::Checkpoint::open(lab_.directory(row) + "/checkpoint");
    const core::TensorView& view = checkpoint.at(linear + ".codes");
    return std::string(reinterpret_cast<const char*>(view.data), view.bytes);
  };
  const Json plain = lab_.row(gptq), blocks = lab_.row(given);
  EXPECT_EQ(codes(blocks, "model.layers.0.mlp.down_proj"), codes(plain, "model.layers.0.mlp.down_proj"));
  EXPECT_NE(codes(blocks, "model.layers.3.mlp.down_proj"), codes(plain, "model.layers.3.mlp.down_proj"));
}

TEST_F(Qat, StreamedBlocksAreTrainedToTheSameBits) {
  const Lab other;
  Strings given = with({"qat.scope=both", "qat.steps=3", "measure.perplexity[0].corpus=" + lab_.file("text.txt"),
                        "calibration.samples=8", "calibration.seq_len=64"});
  const Json resident = lab_.row(given);
  given.push_back("model.residency=stream");
  const Json streamed = other.row(given);
  EXPECT_EQ(streamed["id"], resident["id"]);
  EXPECT_EQ(streamed["quantized"], resident["quantized"]);
  ASSERT_EQ(resident["qat"]["parts"].size(), 7u);
  EXPECT_EQ(resident["qat"]["parts"][6]["name"], "model");
}

// ---- mistakes ----

TEST_F(Qat, RefusesInOneLine) {
  const Lab lab;
  const auto message = [&](const Strings& more) {
    std::string text = core::message_of([&] { lab.row(with(more)); });
    return text.starts_with("--set") ? text.substr(text.find(": ") + 2) : text;
  };
  EXPECT_EQ(message({"qat.train=[scale, codebook]"}),
            "qat.train: no linear of this model has a codebook to train. Leave it out; it has: scale, zero_point, "
            "norms.");
  EXPECT_EQ(message({"quant.weight.symmetry=midrise"}),
            "qat.train: no linear of this model has a zero_point to train. Leave it out; it has: scale, norms.");
  EXPECT_EQ(message({"qat.train=[zero_point, offset]"}),
            "qat.train: an offset moves the levels as all zero points together do. Train one of them.");
  EXPECT_EQ(message({"qat.train=[]"}), "qat.train: nothing is trained. Name parameters, or set qat.steps: 0.");
  EXPECT_EQ(message({"qat.train=[scale, scale]"}), "qat.train: scale is there twice. Name it once.");
  EXPECT_THAT(message({"qat.train=[skale]"}), HasSubstr("`skale` is not one of its values. Did you mean `scale`?"));
  EXPECT_EQ(message({"qat.method=e2e_qp", "qat.train=[scale, zero_point]"}),
            "qat.train: e2e_qp trains scale only. Leave train out, or set qat.method: tune.");
  EXPECT_EQ(message({"qat.held_out=0"}),
            "qat.keep: best needs held-out text. Set qat.held_out or qat.held_out_corpus, or qat.keep: last.");
  EXPECT_EQ(message({"qat.scope=block", "qat.objective=kl"}),
            "qat.objective: kl is of the whole model. Set qat.scope: model, or qat.objective: block_mse.");
  EXPECT_EQ(message({"qat.scope=block", "qat.corpus=tiny/train"}),
            "qat.corpus: scope: block trains on the calibration text. Set calibration.corpus, or qat.scope: model.");
  EXPECT_EQ(message({"qat.objective=block_token_mse"}),
            "qat.objective: block_token_mse is of single blocks. Set qat.scope: block, or qat.objective: kl.");
  EXPECT_EQ(message({"qat.objective=block_mse"}),
            "qat.objective: block_mse is of single blocks. Set qat.scope: block, or qat.objective: kl.");
  EXPECT_EQ(message({"qat.method=block_ap", "qat.train=[codes, scale]"}),
            "qat.train: codes are trained block by block. Set qat.scope: block, or both.");
  EXPECT_EQ(message({"qat.train=[codes]", "qat.scope=block", "replication.strategy=adjacent"}),
            "qat.train: codes that several blocks or passes use are not trained. Leave codes out, or the strategy.");
  EXPECT_EQ(message({"qat.train=[codes]", "qat.scope=block", "replication.strategy=depth"}),
            "qat.train: codes that several blocks or passes use are not trained. Leave codes out, or the strategy.");
  EXPECT_EQ(message({"qat.train=[codes]", "qat.scope=block", "replication.strategy=parallel"}),
            "qat.train: codes that several blocks or passes use are not trained. Leave codes out, or the strategy.");
  EXPECT_EQ(message({"qat.train=[codes]", "qat.scope=block", "replication.strategy=low_rank"}),
            "qat.train: codes of grids and of windows are trained, not those of low_rank. Leave codes out.");
  EXPECT_EQ(message({"quant.method=none"}),
            "qat.steps: quant.method: none leaves no quantization parameters to train. Choose a method.");
  EXPECT_THAT(message({"qat.held_out=0.0001"}), HasSubstr("fewer than a window of 64. Hold out more of it."));
  EXPECT_THAT(message({"qat.batch=1000000"}), HasSubstr("fewer than qat.batch 1000000. Lower them or name a longer"));
  EXPECT_FALSE(fs::exists(lab.out() + "/lab")) << "before anything is made";
}

}  // namespace
}  // namespace experiments
