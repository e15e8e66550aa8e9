// A mixture of experts in a run: what stays in full precision, and what becomes of experts that hardly a token reaches.
#include <gmock/gmock.h>

#include <map>

#include "core/io/csv.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

class Experts : public ::testing::Test {
 protected:
  Json row(const Strings& more = {}) const {
    Strings all{"model.path=tiny-deepseek-moe", "quant.method=gptq", "calibration.samples=8", "calibration.seq_len=64"};
    all.insert(all.end(), more.begin(), more.end());
    return lab_.row(all);
  }
  // A column of modules.csv by path.
  std::map<std::string, std::string> column(const Json& row, const std::string& name) const {
    const std::string file = lab_.directory(row) + "/modules.csv";
    const auto table = core::parse_csv(core::slurp(file), file);
    const auto at = std::find(table[0].begin(), table[0].end(), name) - table[0].begin();
    std::map<std::string, std::string> all;
    for (size_t i = 1; i < table.size(); ++i) all[table[i][0]] = table[i][at];
    return all;
  }
  static Lab& lab() {  // one for all: what a case has run, the others find finished
    static Lab lab;
    return lab;
  }
  const Lab& lab_ = lab();
};

constexpr const char* kRouter = "model.layers.1.mlp.gate";

TEST_F(Experts, TheRouterStaysInFullPrecisionUnlessItIsNamed) {
  const auto plain = column(row(), "bits");
  EXPECT_EQ(plain.size(), 7 + 2 * (4 + 8 * 3 + 3)) << "a dense block, and two mixtures of 8 experts and shared ones";
  EXPECT_FALSE(plain.contains(kRouter));
  EXPECT_EQ(column(row({"quant.router.bits=4"}), "bits").at(kRouter), "4");
  EXPECT_EQ(column(row({"quant.rules=[{match: 'role:router', weight: {bits: 8}}]", "quant.router.bits=4"}), "bits")
                .at(kRouter),
            "8");
}

TEST_F(Experts, SeeTheTokensThatTheyAreSentOrAll) {
  int64_t routed = 0;
  const auto of_routed = column(row(), "tokens");
  for (int e = 0; e < 8; ++e)
    routed += std::stoll(of_routed.at("model.layers.2.mlp.experts." + std::to_string(e) + ".up_proj"));
  EXPECT_EQ(routed, 2 * 8 * 64) << "two experts a token";
  EXPECT_EQ(of_routed.at("model.layers.2.mlp.shared_experts.up_proj"), "512");
  for (const auto& [path, tokens] : column(row({"calibration.all_experts=true"}), "tokens"))
    EXPECT_EQ(tokens, "512") << path;
}

TEST_F(Experts, ThatHardlyATokenReachesFallBackAndSaySo) {
  const Json plain = row({"calibration.min_token_fraction=0.3"});
  const auto tokens = column(plain, "tokens"), fallback = column(plain, "fallback");
  size_t few = 0;
  for (const auto& [path, reason] : fallback) {
    const bool expected = std::stoll(tokens.at(path)) < 0.3 * 512;
    EXPECT_EQ(reason, expected ? tokens.at(path) + " of 512 calibration tokens reached it" : "") << path;
    few += expected ? 1 : 0;
  }
  EXPECT_GT(few, 0);
  EXPECT_EQ(plain["fallbacks"].size(), few);
  const Json pooled = row({"calibration.min_token_fraction=0.3", "calibration.fallback=pooled"});
  EXPECT_TRUE(pooled["fallbacks"].empty());
  size_t notes = 0;
  for (const auto& [path, note] : column(pooled, "note")) {
    if (note.find(" of 512 calibration tokens reached it: pooled") == std::string::npos) continue;
    EXPECT_LT(std::stoll(note), 0.3 * 512) << path;
    ++notes;
  }
  EXPECT_GT(notes, 0);
  EXPECT_NE(Lab::nll_of(pooled), Lab::nll_of(plain));
}

}  // namespace
}  // namespace experiments
