// Ranking units by what the plain grid does to their outputs: measured once, written down, and used.
#include "experiments/analysis/sensitivity.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>

#include "core/io/csv.h"
#include "core/io/files.h"
#include "models/registry.h"
#include "quant/grids/make_format.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

using Rows = std::vector<std::vector<std::string>>;

const Strings kGiven{"quant.method=rtn", "calibration.samples=4", "calibration.seq_len=64",
                     "replication.strategy=low_rank", "replication.select={policy: sensitivity, fraction: 0.25}"};

Rows table(const Lab& lab, const Json& row, const std::string& file) {
  return core::parse_csv(core::slurp(lab.directory(row) + "/" + file), file);
}

TEST(Sensitivity, RanksEveryLinearAndReplicatesTheMostSensitive) {
  const Lab lab;
  const Json row = lab.row(kGiven);
  const Rows units = table(lab, row, "sensitivity.csv"), modules = table(lab, row, "modules.csv");
  ASSERT_EQ(units.size(), modules.size());
  EXPECT_EQ(units[0], (std::vector<std::string>{"unit", "output_error", "kl", "chosen"}));
  const auto linears = static_cast<int64_t>(units.size() - 1);
  for (int64_t i = 1; i <= linears; ++i) {
    if (i > 1) {
      EXPECT_GE(std::stod(units[i - 1][1]), std::stod(units[i][1]));
    }
    EXPECT_EQ(units[i][2], "") << "KL was not asked for";
    EXPECT_EQ(units[i][3], i <= std::lround(0.25 * static_cast<double>(linears)) ? "yes" : "no") << i;
  }
  const double bits = row["bits"]["with_parameters"];
  EXPECT_LT(bits, lab.row({kGiven[0], kGiven[1], kGiven[2], kGiven[3]})["bits"]["with_parameters"].get<double>());
  EXPECT_GT(bits, lab.row({"quant.method=rtn"})["bits"]["with_parameters"].get<double>());
}

TEST(Sensitivity, IsMeasuredOnceForTheSameGrid) {
  const Lab lab;
  Strings more = kGiven;
  more.push_back("replication.low_rank.rank=2");
  const auto entries = [&] {
    int64_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(lab.out() + "/.cache"))
      count += entry.path().filename().string().starts_with("sensitivity-") && entry.is_directory();
    return count;
  };
  lab.row(kGiven);
  EXPECT_EQ(entries(), 2) << "on full-precision inputs, and of the single replica";
  lab.row(more);
  EXPECT_EQ(entries(), 2);
  more.push_back("quant.weight.bits=3");
  lab.row(more);
  EXPECT_EQ(entries(), 4);
}

TEST(Sensitivity, BlocksAreRankedToo) {
  const Lab lab;
  Strings given = kGiven;
  given.back() = "replication.select={unit: block, policy: sensitivity, fraction: 0.5}";
  const Rows units = table(lab, lab.row(given), "sensitivity.csv");
  EXPECT_EQ(units[1][0].substr(0, 13), "model.layers.");
  EXPECT_EQ(units[1][3], "yes");
  EXPECT_EQ(units.back()[3], "no");
}

// Every position of the calibration text, in plain loops and double: one linear rounded, the rest in full precision.
TEST(Sensitivity, KlIsTheDivergenceOfTheModelWithOneUnitQuantized) {
  const Lab lab;
  Strings given = kGiven;
  given.back() = "replication.select={policy: sensitivity, metric: kl, candidates: 3, fraction: 0.05}";
  const Json row = lab.row(given);
  const Rows units = table(lab, row, "sensitivity.csv");
  const Spec spec = lab.points(given).front().spec;
  Resources resources("");
  const ModelFiles& files = resources.model(spec.model.path);
  const auto full = models::build(files.config), other = models::build(files.config);
  const core::Weights weights = weights_of(spec, files);
  for (core::Model* model : {full.get(), other.get()}) {
    model->load_embedding_and_head(weights);
    for (int64_t i = 0; i < model->shape().layers; ++i) core::load(model->block(i), weights);
  }
  const core::Windows& text = resources.calibration(files, spec, full->shape());
  at::NoGradGuard no_gradient;
  const at::Tensor ids = at::tensor(text.ids, at::kInt).reshape({text.count, text.seq_len}).to(at::kLong);
  const at::Tensor p = at::log_softmax(full->forward(ids).to(at::kDouble), -1);
  for (int i = 1; i <= 3; ++i) {
    for (core::Slot* slot : other->slots()) {
      if (slot->path() != units[i][0]) continue;
      const auto before = slot->pointer();
      const auto format = quant::make_format(spec.quant.weight, slot->path(), slot->in_features());
      const at::Tensor w = slot->linear().weight();
      const quant::Encoded encoded = quant::round_to_nearest(w, *format, {});
      slot->put(
          std::make_shared<core::DenseLinear>(format->decode(encoded.codes, encoded.parameters), at::Tensor(), 32));
      const at::Tensor q = at::log_softmax(other->forward(ids).to(at::kDouble), -1);
      const double kl = (p.exp() * (p - q)).sum(-1).mean().item<double>();
      EXPECT_NEAR(std::stod(units[i][2]), kl, 1e-4 * kl + 1e-6) << slot->path();
      slot->put(before);
    }
  }
  EXPECT_GE(std::stod(units[1][2]), std::stod(units[2][2]));
  EXPECT_GE(std::stod(units[2][2]), std::stod(units[3][2]));
  EXPECT_EQ(units[4][2], "") << "no candidate";
  EXPECT_EQ(units[1][3], "yes");
  // The candidates are the first by output error.
  std::vector<double> errors;
  for (size_t i = 1; i < units.size(); ++i) errors.push_back(std::stod(units[i][1]));
  EXPECT_GE(*std::min_element(errors.begin(), errors.begin() + 3), *std::max_element(errors.begin() + 3, errors.end()));
}

std::vector<WalkCost> cost_of(Point point, Resources& resources) {
  const Run run = resolve(std::move(point), resources);
  return cost_of_ranking(run.spec(), resources, *run.files, *run.calibration);
}

TEST(Sensitivity, WhatItCostsIsToldBeforeAndNotPaidTwice) {
  const Lab lab;
  const auto cost = [&](const std::string& select) {
    Strings given = kGiven;
    given.back() = "replication.select=" + select;
    Resources resources(lab.out() + "/.cache");
    Strings lines;
    for (const WalkCost& walk : cost_of(lab.points(given).front(), resources)) {
      EXPECT_EQ(walk.macs == 0, walk.line.ends_with("(in the cache)")) << walk.line;
      lines.push_back(walk.line);
    }
    return lines;
  };
  EXPECT_THAT(cost("{policy: every}"), ::testing::IsEmpty());
  EXPECT_THAT(cost("{policy: sensitivity}"),
              ::testing::ElementsAre("sensitivity by output error: 42 linears, one walk over 6 blocks"));
  // All candidates among the 7 linears of block 0, then of block 1: 7 × 6 + 5 and 2 × 6.
  EXPECT_THAT(
      cost("{policy: sensitivity, metric: kl, candidates: 8}"),
      ::testing::ElementsAre("sensitivity by output error: 42 linears, one walk over 6 blocks",
                             "sensitivity by KL: 8 of 42 linears, at most 47 forward passes of a block over 256 "
                             "tokens"));
  EXPECT_THAT(cost("{unit: block, policy: sensitivity, metric: kl, candidates: 0}").back(),
              "sensitivity by KL: 6 of 6 blocks, at most 21 forward passes of a block over 256 tokens");
  lab.row(kGiven);
  EXPECT_THAT(cost("{policy: sensitivity}"),
              ::testing::ElementsAre("sensitivity by output error: 42 linears, one walk over 6 blocks (in the cache)"));
}

}  // namespace
}  // namespace experiments
