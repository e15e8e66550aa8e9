// Expectations on the command line: the exit code, one line per miss, and the file that is rewritten.
#include <gmock/gmock.h>

#include <filesystem>

#include "tests/cli/bad_input.h"

namespace cli {
namespace {

using ::testing::HasSubstr;

TEST(Expect, AMissIsOneLineAndExitCodeThree) {
  Program program;
  program.edit("measure:", "expect: {bits.codes: {equal: 3}, bits.with_parameters: {max: 5}}  # as it was\nmeasure:");
  const Finished missed = program.run({"c.yaml"});
  EXPECT_EQ(missed.code, 3);
  EXPECT_THAT(missed.err, HasSubstr("c.yaml:4: expect.bits.codes.equal: the result is 4.0, not 3.\n"));
  const Finished again = program.run({"c.yaml", "--quiet"});
  EXPECT_EQ(again.code, 3) << "of a finished run too";
  EXPECT_EQ(again.err, "c.yaml:4: expect.bits.codes.equal: the result is 4.0, not 3.\n");

  const Finished updated = program.run({"c.yaml", "--update-expect", "--quiet"});
  EXPECT_EQ(updated.code, 0);
  EXPECT_THAT(updated.out, HasSubstr("c.yaml:4: expect.bits.codes.equal: 3 -> 4\n"));
  EXPECT_THAT(core::slurp(program.file("c.yaml")),
              HasSubstr("\nexpect: {bits.codes: {equal: 4}, bits.with_parameters: {max: 5}}  # as it was\n"));
  EXPECT_EQ(program.run({"c.yaml", "--quiet"}).code, 0);
}

TEST(Expect, AFailedPointCountsMoreThanAMiss) {
  Program program;
  program.edit("measure:", "sweep: {grid: {quant.weight.bits: [4, 3]}}\nexpect: {bits.codes: {equal: 5}}\nmeasure:");
  const std::string plan = program.run({"c.yaml", "--dry-run"}).out;  // "to run    runs/n/<id>  quant.weight.bits=4"
  const size_t start = plan.find("runs/n/"), end = plan.find(' ', start);
  std::filesystem::create_directories(program.file("runs/n"));
  program.put(plan.substr(start, end - start), "a file where the run directory belongs");
  const Finished finished = program.run({"c.yaml", "--quiet"});
  EXPECT_EQ(finished.code, 1);
  EXPECT_THAT(finished.err, HasSubstr("expect.bits.codes.equal: the result is 3.0, not 5 (quant.weight.bits=3).\n"));
}

TEST_F(BadInput, ExpectationsOfTheWrongForm) {
  refused_after("measure:", "expect: {bits.codes: {mx: 3}}\nmeasure:",
                "c.yaml:4: expect.bits.codes.mx is not a known key. Did you mean `max`? Known keys: min, max, equal, "
                "tolerance, point.");
}

TEST_F(BadInput, UpdatingByResultsThatAreNotTheFiles) {
  refused("--update-expect: with --set the results are not those of the file. Change the file instead.",
          {"c.yaml", "--update-expect", "--set", "quant.weight.bits=3"});
}

TEST_F(BadInput, SeedTwice) {
  refused_after("measure:", "seed: 1\nseeds: [1, 2]\nmeasure:",
                "c.yaml:5: seeds: seed is given too (c.yaml:4: seed). Keep one of them.");
}

}  // namespace
}  // namespace cli
