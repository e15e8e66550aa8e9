// CSV: quoting, shortest doubles, and reading back what was written.
#include "core/io/csv.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "tests/io/support.h"

namespace core {
namespace {

using ::testing::ElementsAre;

TEST(Csv, CellsAreQuotedOnlyWhereNeeded) {
  EXPECT_EQ(csv_line({"plain", "with space", "a,b", "say \"x\"", "two\nlines", ""}),
            "plain,with space,\"a,b\",\"say \"\"x\"\"\",\"two\nlines\",");
}

TEST(Csv, DoublesAreShortAndComeBackExactly) {
  EXPECT_EQ(csv_cell(0.1), "0.1");
  EXPECT_EQ(csv_cell(2.0), "2");
  EXPECT_EQ(csv_cell(1e300), "1e+300");
  EXPECT_EQ(csv_cell(std::nan("")), "nan");
  EXPECT_EQ(csv_cell(-std::numeric_limits<double>::infinity()), "-inf");
  std::mt19937_64 random(1);
  for (int i = 0; i < 10'000; ++i) {
    const uint64_t bits = random();
    double value;
    std::memcpy(&value, &bits, sizeof value);
    if (std::isfinite(value)) {
      EXPECT_EQ(std::strtod(csv_cell(value).c_str(), nullptr), value);
    }
  }
}

TEST(Csv, ATableHasAHeaderAndAllKindsOfCells) {
  CsvTable table({"name", "n", "x", "note"});
  table.row("a,b", 3, 0.5, std::string("t"));
  table.row(std::string_view("c"), int64_t{-1} << 40, 0.25f, "");
  EXPECT_EQ(table.text(), "name,n,x,note\n\"a,b\",3,0.5,t\nc,-1099511627776,0.25,\n");
  EXPECT_THROW(table.row("too", "few"), std::logic_error);
}

TEST(Csv, WhatIsWrittenIsReadBack) {
  CsvTable table({"a", "b"});
  table.row("x,\"y\"\n", 1);
  table.row("", "");
  EXPECT_THAT(parse_csv(table.text(), "f"),
              ElementsAre(ElementsAre("a", "b"), ElementsAre("x,\"y\"\n", "1"), ElementsAre("", "")));
  EXPECT_THAT(parse_csv("a,b\r\n1,2", "f"), ElementsAre(ElementsAre("a", "b"), ElementsAre("1", "2")));
  EXPECT_TRUE(parse_csv("", "f").empty());
}

TEST(Csv, AnOpenQuoteIsReported) {
  EXPECT_EQ(message_of([] { parse_csv("a\n\"b\n", "x/windows.csv"); }),
            "x/windows.csv: a quote in row 2 is not closed. Is the file complete?");
}

}  // namespace
}  // namespace core
