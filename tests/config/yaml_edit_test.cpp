// One value of a YAML text changes; every other byte stays.
#include "core/config/yaml_edit.h"

#include <gtest/gtest.h>

#include "tests/io/support.h"

namespace core {
namespace {

std::string edited(const std::string& text, const std::vector<PathStep>& path, const std::string& value = "7") {
  return replace_scalar(text, "a.yaml", path, parse_yaml(value, "value"));
}

TEST(ReplaceScalar, KeepsCommentsSpacingOrderAndLineEnds) {
  EXPECT_EQ(edited("# top\n\na:  1   # one\nb: [2,   3 ]\n", {"a"}), "# top\n\na:  7   # one\nb: [2,   3 ]\n");
  EXPECT_EQ(edited("a:  1\r\nb: [2,   3 ] # x\r\n", {"b", size_t{1}}), "a:  1\r\nb: [2,   7 ] # x\r\n");
  EXPECT_EQ(edited("a: {b: 1,c: 22}", {"a", "c"}, "3.5"), "a: {b: 1,c: 3.5}");
  EXPECT_EQ(edited("# ä ± 中\nü: 1 # ±\na: 2", {"a"}), "# ä ± 中\nü: 1 # ±\na: 7") << "positions count bytes";
  EXPECT_EQ(edited("- - 1\n  - 2\n-\n  3\n", {size_t{0}, size_t{1}}), "- - 1\n  - 7\n-\n  3\n");
  EXPECT_EQ(edited("- - 1\n  - 2\n-\n  3\n", {size_t{1}}), "- - 1\n  - 2\n-\n  7\n");
}

TEST(ReplaceScalar, TakesNamesLiterallyDotsAndAll) {
  EXPECT_EQ(edited("\"a.b[0]\": {c: 1}\na: {b: [2]}\n", {"a.b[0]", "c"}), "\"a.b[0]\": {c: 7}\na: {b: [2]}\n");
}

TEST(ReplaceScalar, ReplacesQuotesWithTheValue) {
  EXPECT_EQ(edited("a: \"x\" # c\n", {"a"}), "a: 7 # c\n");
  EXPECT_EQ(edited("a: 'x'\n", {"a"}, "\"08\""), "a: \"08\"\n");
  EXPECT_EQ(edited("a: x y\n", {"a"}, "z"), "a: z\n");
}

TEST(ReplaceScalar, RefusesWhatItCannotChangeAlone) {
  const auto message = [](const std::string& text, const std::vector<PathStep>& path) {
    return message_of([&] { edited(text, path); });
  };
  EXPECT_EQ(message("a: 1\n", {"b"}), "a.yaml: b is not in this file. Write it there first.");
  EXPECT_EQ(message("a: [1]\n", {"a", size_t{1}}), "a.yaml: a[1] is not in this file. Write it there first.");
  EXPECT_EQ(message("a: [1]\n", {"a"}), "a.yaml: a is a list, not one value. Change it by hand.");
  const std::string by_hand =
      "a.yaml: a is written in a way that is not edited (anchor, alias, escapes or several lines). Change it to 7 by "
      "hand.";
  EXPECT_EQ(message("b: &x 1\na: *x\n", {"a"}), by_hand);
  EXPECT_EQ(message("a: &x 1\nb: *x\n", {"a"}), by_hand);
  EXPECT_EQ(message("a: \"\\u0041\"\n", {"a"}), by_hand);
  EXPECT_EQ(message("a: |\n  x\n  y\n", {"a"}), by_hand);
  EXPECT_EQ(message("a: x\n  y\n", {"a"}), by_hand);
  EXPECT_EQ(message("a: 'it''s'\n", {"a"}), by_hand);
}

}  // namespace
}  // namespace core
