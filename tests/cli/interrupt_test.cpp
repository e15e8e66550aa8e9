// An interrupted sweep: the exit code of the signal, finished points kept, the next call goes on behind them.
#include <gmock/gmock.h>

#include <csignal>
#include <map>

#include "tests/cli/program.h"

namespace cli {
namespace {

using ::testing::HasSubstr;

constexpr size_t kPoints = 3;

// Content of every results.json, by path.
std::map<std::string, std::string> contents_of_results(const Program& program) {
  std::map<std::string, std::string> found;
  for (const std::string& path : program.everything()) {
    if (path.ends_with("/results.json")) found[path] = core::slurp(program.file(path));
  }
  return found;
}

TEST(Interrupt, TheSecondSignalStopsAtOnce) {
  Program program;  // a block of all windows at once takes long enough for a second signal
  program.edit("  perplexity: [{corpus: text.txt, seq_len: 64, windows: 2}]",
               "  batch_tokens: 1048576\n  perplexity: [{corpus: tiny/train, seq_len: 512}]");
  const pid_t pid = program.start({"c.yaml"});
  until([&] {
    for (const std::string& path : program.everything())
      if (path.ends_with("/log.txt")) return true;
    return false;
  });
  ::kill(pid, SIGINT);
  until([&] { return program.errors_of(pid).find("once more to stop at once") != std::string::npos; });
  ::kill(pid, SIGTERM);
  const Finished stopped = program.wait(pid);
  EXPECT_EQ(stopped.code, 143);
  EXPECT_EQ(stopped.err, "\nstopping after the current block; once more to stop at once\n")
      << "nothing else is done, not even a farewell";
  EXPECT_THAT(contents_of_results(program), ::testing::IsEmpty());
}

class Interrupts : public ::testing::TestWithParam<std::pair<int, int>> {};  // signal, exit code

TEST_P(Interrupts, KeepsFinishedPointsAndTheNextCallGoesOn) {
  const auto [signal, code] = GetParam();
  Program program;
  program.edit("corpus: text.txt, seq_len: 64, windows: 2", "corpus: tiny/valid, seq_len: 128, windows: 80");
  program.put("c.yaml", core::slurp(program.file("c.yaml")) + "sweep: {grid: {quant.weight.bits: [4, 3, 2]}}\n");

  const pid_t pid = program.start({"c.yaml"});
  until([&] { return !contents_of_results(program).empty(); });
  ::kill(pid, signal);
  const Finished stopped = program.wait(pid);
  EXPECT_EQ(stopped.code, code);
  EXPECT_THAT(stopped.err, HasSubstr("stopping after the current block; once more to stop at once\n"));
  EXPECT_THAT(stopped.err, HasSubstr("interrupted; finished runs are kept, the same command goes on\n"));
  const auto kept = contents_of_results(program);
  ASSERT_GE(kept.size(), 1u);
  ASSERT_LT(kept.size(), kPoints);

  const Finished again = program.run({"c.yaml"});
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(occurrences(again.out, "finished before; --force runs it again\n"), kept.size());
  const auto all = contents_of_results(program);
  EXPECT_EQ(all.size(), kPoints);
  for (const auto& [path, content] : kept) EXPECT_EQ(all.at(path), content) << path;
}

INSTANTIATE_TEST_SUITE_P(Signals, Interrupts, ::testing::Values(std::pair(SIGINT, 130), std::pair(SIGTERM, 143)),
                         [](const auto& info) { return info.param.first == SIGINT ? "Int" : "Term"; });

}  // namespace
}  // namespace cli
