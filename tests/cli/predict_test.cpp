// The program that predicts speed: it says that it does, and on what; its mistakes.
#include <gmock/gmock.h>

#include "tests/cli/program.h"

namespace cli {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

class Predict : public ::testing::Test {
 protected:
  Predict() { program_.be(REFRAIN_PREDICT); }

  std::string table(const Strings& arguments) {
    const Finished finished = program_.run(arguments);
    EXPECT_EQ(finished.code, 0) << finished.err;
    EXPECT_EQ(finished.err, "");
    EXPECT_THAT(finished.out, HasSubstr("PREDICTIONS, not measurements."));
    return finished.out;
  }
  void refused(const Strings& arguments, const std::string& message) {
    const Finished finished = program_.run(arguments);
    EXPECT_EQ(finished.code, 2);
    EXPECT_EQ(finished.err, message + "\n");
    EXPECT_EQ(finished.out, "");
  }
  Program program_;
};

TEST_F(Predict, ADescribedMachineIsBoundByItsMemoryAlone) {
  // 31.2e9 weights at 2.25 bits are 8.8 GB, the head is 1.56: 10.3 GB at 200 GB/s.
  EXPECT_THAT(table({"qwen2.5-32b", "--bandwidth", "200GB", "--bits", "2", "--replicas", "1"}),
              AllOf(HasSubstr("200.0 GB/s (as given)"), HasSubstr("upper bounds"),
                    ContainsRegex("qwen2.5-32b +2 +1 +1[0-9.]+ +10.3[0-9] +– +43.9 +– +51.[0-9] +19.[0-9]\n")));
}

TEST_F(Predict, AKernelThatIsTooSlowBindsInstead) {
  EXPECT_THAT(
      table({"qwen2.5-32b", "--bandwidth", "200GB", "--ns-per-weight", "0.01", "--bits", "2", "--replicas", "1"}),
      AllOf(Not(HasSubstr("upper bounds")), ContainsRegex(" 0.0100 +43.9 +312.[0-9] +319.[0-9] +3.1\n")));
}

TEST_F(Predict, ThisMachineIsMeasured) {
  EXPECT_THAT(table({"tiny-qwen3", "--bits", "2", "--replicas", "2", "--kind", "parallel"}),
              AllOf(HasSubstr("(measured, "), ContainsRegex("tiny-qwen3 +2 +2 ")));
}

TEST_F(Predict, RefusesWhatItDoesNotKnow) {
  refused({"tiny-qwen3", "--bandwidth", "fast"},
          "--bandwidth: `fast` is not a size. Write a number and k, M, G or T, e.g. 20GB.");
  refused({"tiny-qwen3", "--bandwidth", "0"}, "--bandwidth: 0 bytes per second read nothing. Give e.g. 200GB.");
  const Finished unknown = program_.run({"qwen9"});
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("qwen9: no such model or directory."));
}

}  // namespace
}  // namespace cli
