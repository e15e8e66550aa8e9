// Sizes: every unit, and what is none.
#include "core/io/size.h"

#include <gtest/gtest.h>

#include "tests/io/support.h"

namespace core {
namespace {

TEST(ParseSize, KnowsTheUnits) {
  EXPECT_EQ(parse_size("0", "x"), 0);
  EXPECT_EQ(parse_size("12", "x"), 12);
  EXPECT_EQ(parse_size("12B", "x"), 12);
  EXPECT_EQ(parse_size("3k", "x"), 3'000);
  EXPECT_EQ(parse_size("3 kB", "x"), 3'000);
  EXPECT_EQ(parse_size("512M", "x"), 512'000'000);
  EXPECT_EQ(parse_size("20GB", "x"), 20'000'000'000);
  EXPECT_EQ(parse_size("20gb", "x"), 20'000'000'000);
  EXPECT_EQ(parse_size("1.5T", "x"), 1'500'000'000'000);
  EXPECT_EQ(parse_size("2KiB", "x"), 2'048);
  EXPECT_EQ(parse_size("1Gi", "x"), int64_t{1} << 30);
}

TEST(ParseSize, RefusesWhatIsNone) {
  for (const std::string text :
       {"", "GB", "-1", "1e3", "20 GBs", "20PB", "20kG", "i", "2i", "nan", "inf", "9999999TB"}) {
    EXPECT_EQ(message_of([&] { parse_size(text, "--cache-limit"); }),
              "--cache-limit: `" + text + "` is not a size. Write a number and k, M, G or T, e.g. 20GB.");
  }
}

}  // namespace
}  // namespace core
