// Several processes on one sweep: every point is computed once, whoever computes it, and the tables are whole.
#include <gmock/gmock.h>

#include <algorithm>
#include <set>

#include "core/io/csv.h"
#include "core/io/file_lock.h"
#include "tests/cli/program.h"

namespace cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Runners, ThreeProcessesShareASweep) {
  constexpr size_t kPoints = 6;
  Program program;
  program.put("c.yaml",
              core::slurp(program.file("c.yaml")) + "sweep: {grid: {quant.weight.bits: [2, 3, 4, 5, 6, 8]}}\n");
  std::vector<pid_t> runners;
  for (int n = 0; n < 3; ++n) runners.push_back(program.start({"c.yaml", "--threads", "1"}));
  std::string printed;
  for (const pid_t pid : runners) {
    const Finished finished = program.wait(pid);
    EXPECT_EQ(finished.code, 0) << finished.err;
    EXPECT_EQ(finished.err, "");
    printed += finished.out;
  }
  EXPECT_EQ(occurrences(printed, "\nquantize: "), kPoints) << "each point is computed once\n" << printed;

  const auto index = core::parse_csv(core::slurp(program.file("runs/index.csv")), "index.csv");
  std::set<std::string> ids;
  for (size_t row = 1; row < index.size(); ++row) ids.insert(index[row].at(2));
  EXPECT_EQ(index.size(), kPoints + 1);
  EXPECT_EQ(ids.size(), kPoints);

  const std::string csv = core::slurp(program.file("runs/n/summary.csv"));
  EXPECT_EQ(core::parse_csv(csv, "summary.csv").size(), kPoints + 2) << "header, full precision, points\n" << csv;
  EXPECT_THAT(csv, Not(HasSubstr("held by")));
  const std::string markdown = core::slurp(program.file("runs/n/summary.md"));
  const Finished later = program.run({"c.yaml", "--threads", "1"});
  EXPECT_EQ(occurrences(later.out, "finished before; --force runs it again\n"), kPoints);
  EXPECT_EQ(core::slurp(program.file("runs/n/summary.csv")), csv) << "what one process alone would have written";
  EXPECT_EQ(core::slurp(program.file("runs/n/summary.md")), markdown);
}

TEST(Runners, APointThatIsHeldToTheEndIsReportedAndTheOthersAreRun) {
  Program program;
  program.put("c.yaml", core::slurp(program.file("c.yaml")) + "sweep: {grid: {quant.weight.bits: [4, 3]}}\n");
  const std::string plan = program.run({"c.yaml", "--dry-run"}).out;
  const std::string held = plan.substr(plan.find("runs/n/"), plan.find("  quant") - plan.find("runs/n/"));
  std::filesystem::create_directories(program.file(held));
  {
    const core::FileLock lock = core::FileLock::directory(program.file(held));
    const Finished run = program.run({"c.yaml"});
    EXPECT_EQ(run.code, 0) << run.err;
    EXPECT_THAT(run.out, HasSubstr("held by another runner (pid " + std::to_string(::getpid()) + " on "));
    EXPECT_FALSE(std::filesystem::exists(program.file(held + "/results.json")));
  }
  const Finished run = program.run({"c.yaml"});
  EXPECT_EQ(run.code, 0);
  EXPECT_THAT(run.out, Not(HasSubstr("held by")));
  EXPECT_TRUE(std::filesystem::exists(program.file(held + "/results.json")));
}

}  // namespace
}  // namespace cli
