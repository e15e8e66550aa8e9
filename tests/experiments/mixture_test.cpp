// What a run finds out about experts and does with it: experts.csv, selection by expert, controls, bits of their own;
// and what the order of the experts must not change.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <set>

#include "core/io/csv.h"
#include "core/io/files.h"
#include "core/io/safetensors.h"
#include "experiments/analysis/experts.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

using ::testing::HasSubstr;

constexpr int kExperts = 8, kTopK = 2;
const std::string kSource = std::string(REFRAIN_SOURCE_DIR) + "/data/tiny-deepseek-moe";
const std::string kLast = "model.layers.2.mlp.";

class Mixture : public ::testing::Test {
 protected:
  using Rows = std::vector<std::map<std::string, std::string>>;

  Strings given(const Strings& more = {}, const std::string& model = "tiny-deepseek-moe") const {
    Strings all{"model.path=" + model, "calibration.samples=8", "calibration.seq_len=64"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Json row(const Strings& more = {}) const { return lab_.row(given(more)); }
  Rows table(const Json& row, const std::string& name) const {
    const std::string file = lab_.directory(row) + "/" + name;
    const auto cells = core::parse_csv(core::slurp(file), file);
    Rows rows;
    for (size_t i = 1; i < cells.size(); ++i) {
      for (size_t c = 0; c < cells[0].size(); ++c) {
        if (c == 0) rows.emplace_back();
        rows.back()[cells[0][c]] = cells[i][c];
      }
    }
    return rows;
  }
  std::string refusal(const Strings& more) const {
    try {
      lab_.run(given(more));
    } catch (const core::UserError& error) {
      return error.what();
    }
    return "";
  }

  // A copy of the model whose tensors are changed: by name, its bytes.
  using Bytes = std::map<std::string, std::string>;
  std::string changed(const std::string& name, const std::function<void(Bytes&)>& change) const {
    std::filesystem::copy(kSource, lab_.file(name));
    const core::Checkpoint file = core::Checkpoint::open(kSource);
    Bytes all;
    for (const std::string& tensor : file.names()) {
      const core::TensorView& view = file.at(tensor);
      all[tensor] = std::string(reinterpret_cast<const char*>(view.data), view.bytes);
    }
    change(all);
    std::vector<core::TensorToWrite> tensors;
    for (const auto& [tensor, bytes] : all)
      tensors.push_back({tensor, file.at(tensor).dtype, file.at(tensor).shape, bytes.data()});
    core::write_safetensors(lab_.file(name) + "/model.safetensors", tensors);
    return lab_.file(name);
  }
  static Lab& lab() {  // one for all: what a case has run, the others find finished
    static Lab lab;
    return lab;
  }
  const Lab& lab_ = lab();
};

TEST_F(Mixture, ExpertsCsvSaysWhatEachSeesAndLoses) {
  const Json row = this->row({"quant.expert_bits={policy: uniform, mean_bits: 2}"});
  const Rows experts = table(row, "experts.csv"), modules = table(row, "modules.csv");
  ASSERT_EQ(experts.size(), 2u * kExperts) << "the first block is dense";
  double frequency = 0;
  for (const auto& expert : experts) {
    frequency += std::stod(expert.at("frequency"));
    EXPECT_GT(std::stod(expert.at("error_1")), std::stod(expert.at("error_2"))) << expert.at("expert");
    EXPECT_GT(std::stod(expert.at("error_2")), std::stod(expert.at("error_3"))) << expert.at("expert");
    EXPECT_GT(std::stod(expert.at("error_3")), std::stod(expert.at("error_4"))) << expert.at("expert");
    EXPECT_EQ(expert.at("bits"), "2");
    EXPECT_EQ(expert.at("kl"), "") << "nobody asked";
  }
  EXPECT_NEAR(frequency, 2 * kTopK, 1e-9) << "two mixtures";
  int64_t together = 0;
  for (const auto& pair : table(row, "coactivation.csv")) together += std::stoll(pair.at("tokens"));
  EXPECT_EQ(together, 2 * 8 * 64) << "each token makes one pair per mixture";
}

TEST_F(Mixture, SelectsExpertsAndAllTheirLinears) {
  for (const char* policy : {"sensitivity", "frequency"}) {
    const Json row =
        this->row({"replication.strategy=low_rank",
                   std::string("replication.select={unit: expert, policy: ") + policy + ", fraction: 0.25}"});
    const std::string key = std::string(policy) == "frequency" ? "frequency" : "sensitivity";
    double least = 1e9, most = 0;
    int64_t chosen = 0;
    for (const auto& expert : table(row, "experts.csv")) {
      const double value = std::stod(expert.at(key));
      if (expert.at("chosen") == "yes") {
        ++chosen;
        least = std::min(least, value);
      } else {
        most = std::max(most, value);
      }
    }
    EXPECT_EQ(chosen, 4) << policy;
    EXPECT_GE(least, most) << policy;
  }
  const Json listed = row({"replication.strategy=low_rank",
                           "replication.select={unit: expert, policy: list, list: [" + kLast + "experts.3]}"});
  const Json linears = row(
      {"replication.strategy=low_rank", "replication.select={policy: pattern, pattern: '" + kLast + "experts.3.*'}"});
  EXPECT_EQ(Lab::nll_of(listed), Lab::nll_of(linears));
  EXPECT_EQ(listed["bits"], linears["bits"]);
}

TEST_F(Mixture, AnExpertThatDoesNotExistIsOneLine) {
  EXPECT_THAT(refusal({"replication.strategy=low_rank",
                       "replication.select={unit: expert, policy: list, list: [" + kLast + "experts.8]}"}),
              HasSubstr("replication.select.list: `" + kLast +
                        "experts.8` is no expert of this model. They are named "
                        "like " +
                        kLast + "experts.7."));
  EXPECT_THAT(refusal({"model.path=tiny-qwen3", "replication.strategy=low_rank",
                       "replication.select={unit: expert, policy: frequency}"}),
              HasSubstr("this model has no experts"));
  EXPECT_THAT(refusal({"model.path=tiny-qwen3", "quant.expert_bits={policy: optimal}"}),
              HasSubstr("this model has no experts"));
}

TEST_F(Mixture, WhatMeasuringExpertsCostsIsToldBefore) {
  const Lab lab;  // with nothing in its cache
  const auto cost = [&](const Strings& more) {
    Resources resources(lab.out() + "/.cache");
    const experiments::Run run = resolve(lab.points(given(more)).front(), resources);
    if (run.calibration == nullptr) return std::vector<WalkCost>();
    return cost_of_experts(run.spec(), resources, *run.files, *run.calibration);
  };
  EXPECT_TRUE(cost({}).empty());
  const auto nearest = cost({"quant.expert_bits={policy: optimal}"});
  ASSERT_EQ(nearest.size(), 1u);
  EXPECT_EQ(nearest.front().line, "experts: 16 at 4 widths, one walk over 3 blocks");
  const Strings ranked{"replication.strategy=low_rank", "replication.select={unit: expert, policy: sensitivity}"};
  EXPECT_EQ(cost(ranked).front().macs, nearest.front().macs);
  const auto gptq = cost({"quant.expert_bits={policy: optimal}", "quant.method=gptq"});
  EXPECT_GT(gptq.front().macs, 2 * nearest.front().macs) << "Hessians of four widths";
  const auto twice = cost({"quant.expert_bits={policy: optimal}", "calibration.samples=16"});
  EXPECT_DOUBLE_EQ(twice.front().macs, 2 * nearest.front().macs);
  lab.row(given({"quant.expert_bits={policy: optimal}"}));
  EXPECT_EQ(cost({"quant.expert_bits={policy: optimal}"}).front().macs, 0) << "it is in the cache";
}

TEST_F(Mixture, ControlsSpendTheSameBitsWhereTheySay) {
  const Strings replica{"replication.strategy=low_rank", "replication.low_rank.rank=8",
                        "replication.select={unit: expert, policy: sensitivity, fraction: 0.25}"};
  const Json row = this->row(replica);
  const double bits = row["bits"]["with_parameters"];
  std::map<std::string, std::string> chosen;
  for (const auto& expert : table(row, "experts.csv")) chosen[expert.at("expert")] = expert.at("chosen");
  for (const char* control : {"more_bits_selected", "more_bits_attention"}) {
    Strings more = replica;
    more.push_back(std::string("replication.control=") + control);
    const Json other = this->row(more);
    EXPECT_LE(other["bits"]["with_parameters"].get<double>(), bits) << control;
    EXPECT_GE(other["bits"]["with_parameters"].get<double>(), 0.99 * bits) << control;
    int64_t raised = 0;
    for (const auto& module : table(other, "modules.csv")) {
      if (module.at("bits") == "2") continue;
      ++raised;
      const std::string& path = module.at("path");
      const std::string expert = path.substr(0, path.rfind('.'));
      const bool may = std::string(control) == "more_bits_selected"
                           ? chosen[expert] == "yes"
                           : path.find("self_attn") != std::string::npos || path.find("shared") != std::string::npos;
      EXPECT_TRUE(may) << control << " " << path;
    }
    EXPECT_GT(raised, 0) << control;
  }
}

TEST_F(Mixture, BitsOfExpertsKeepTheirMean) {
  std::map<std::string, double> nll;
  for (const char* policy : {"optimal", "random", "uniform"}) {
    const Json row = this->row({std::string("quant.expert_bits={mean_bits: 2, policy: ") + policy + "}"});
    double sum = 0;
    std::set<std::string> different;
    for (const auto& expert : table(row, "experts.csv")) {
      sum += std::stod(expert.at("bits"));
      different.insert(expert.at("bits"));
    }
    EXPECT_EQ(sum, 2 * 2 * kExperts) << policy;
    EXPECT_EQ(different.size() > 1, std::string(policy) != "uniform") << policy;
    EXPECT_EQ(row["bits"]["codes"].get<double>(), 2.0) << policy;
    nll[policy] = Lab::nll_of(row);
  }
  EXPECT_EQ(nll["uniform"], Lab::nll_of(row())) << "the bits that they have anyway";
  EXPECT_LT(nll["optimal"], nll["random"]);
}

TEST_F(Mixture, TheOrderOfTheExpertsChangesOnlyTheRounding) {
  const std::vector<int> order{3, 0, 6, 1, 7, 5, 2, 4};  // the new expert e is the old order[e]
  const std::string permuted = changed("permuted", [&](Bytes& all) {
    const Bytes before = all;
    for (const std::string layer : {"model.layers.1.mlp.", "model.layers.2.mlp."}) {
      std::string router;
      const std::string& rows = before.at(layer + "gate.weight");
      const size_t row = rows.size() / kExperts;
      for (int e = 0; e < kExperts; ++e) {
        router += rows.substr(order[e] * row, row);
        for (const char* linear : {".gate_proj.weight", ".up_proj.weight", ".down_proj.weight"})
          all[layer + "experts." + std::to_string(e) + linear] =
              before.at(layer + "experts." + std::to_string(order[e]) + linear);
      }
      all[layer + "gate.weight"] = router;
    }
  });
  for (const char* method : {"quant.method=none", "quant.method=rtn", "quant.method=gptq"}) {
    const double nll = Lab::nll_of(row({method, "quant.weight.bits=4"}));
    EXPECT_NEAR(Lab::nll_of(lab_.row(given({method, "quant.weight.bits=4"}, permuted))), nll, 2e-4) << method;
  }
}

TEST_F(Mixture, AnExpertWithoutATokenIsRoundedAndSaysSo) {
  // Rows 1 and 3 of the router become minus rows 0 and 2, row 5 zero: two of the four are always above it.
  const std::string starved = changed("starved", [](Bytes& all) {
    std::string& rows = all[kLast + "gate.weight"];
    const size_t row = rows.size() / kExperts;
    for (const size_t e : {0, 2}) {
      std::string negative = rows.substr(e * row, row);
      for (size_t i = 1; i < row; i += 2) negative[i] = static_cast<char>(negative[i] ^ 0x80);  // sign of a bfloat16
      rows.replace((e + 1) * row, row, negative);
    }
    rows.replace(5 * row, row, std::string(row, '\0'));
  });
  const Json row = lab_.row(given({"quant.method=gptq", "quant.expert_bits={policy: optimal, mean_bits: 2}"}, starved));
  const Rows experts = table(row, "experts.csv"), modules = table(row, "modules.csv");
  int64_t without = 0;
  for (const auto& expert : experts) {
    if (expert.at("tokens") != "0") continue;
    ++without;
    EXPECT_EQ(expert.at("bits"), "1") << "bits are wasted on it";
    EXPECT_EQ(std::stod(expert.at("sensitivity")), 0);
    for (const auto& module : modules) {
      if (!module.at("path").starts_with(expert.at("expert") + ".")) continue;
      EXPECT_EQ(module.at("fallback"), "0 of 512 calibration tokens reached it") << module.at("path");
    }
  }
  EXPECT_EQ(without, 1);
  EXPECT_TRUE(std::isfinite(Lab::nll_of(row)));
}

}  // namespace
}  // namespace experiments
