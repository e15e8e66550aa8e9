// Ranking units by what the plain grid does to their outputs: measured once, written down, and used.
#include <gmock/gmock.h>

#include <filesystem>

#include "core/io/csv.h"
#include "core/io/files.h"
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
  EXPECT_EQ(units[0], (std::vector<std::string>{"unit", "output_error", "chosen"}));
  const auto linears = static_cast<int64_t>(units.size() - 1);
  for (int64_t i = 1; i <= linears; ++i) {
    if (i > 1) {
      EXPECT_GE(std::stod(units[i - 1][1]), std::stod(units[i][1]));
    }
    EXPECT_EQ(units[i][2], i <= std::lround(0.25 * static_cast<double>(linears)) ? "yes" : "no") << i;
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
  EXPECT_EQ(entries(), 1);
  lab.row(more);
  EXPECT_EQ(entries(), 1);
  more.push_back("quant.weight.bits=3");
  lab.row(more);
  EXPECT_EQ(entries(), 2);
}

TEST(Sensitivity, BlocksAreRankedToo) {
  const Lab lab;
  Strings given = kGiven;
  given.back() = "replication.select={unit: block, policy: sensitivity, fraction: 0.5}";
  const Rows units = table(lab, lab.row(given), "sensitivity.csv");
  EXPECT_EQ(units[1][0].substr(0, 13), "model.layers.");
  EXPECT_EQ(units[1][2], "yes");
  EXPECT_EQ(units.back()[2], "no");
}

}  // namespace
}  // namespace experiments
