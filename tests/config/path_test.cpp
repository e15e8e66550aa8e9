// Dotted paths: assignments on the command line and in a sweep reach any key of a document.
#include <gtest/gtest.h>

#include "tests/config/sample.h"

namespace {

using core::Node;
using core::parse_yaml;
using sample::assign_error;
using sample::assigned;
using sample::refusal;

TEST(Assign, ReplacesAndMakesMaps) {
  EXPECT_EQ(assigned("a: {b: 1, c: 2}", {"a.b=3"}), "{a: {b: 3, c: 2}}");
  EXPECT_EQ(assigned("", {"a.b.c=3", "a.d=[1, 2]"}), "{a: {b: {c: 3}, d: [1, 2]}}");
  EXPECT_EQ(assigned("a: {b: 1}", {"a={c: x}"}), "{a: {c: x}}");
  EXPECT_EQ(assigned("a:\n", {"a.b=x=y"}), "{a: {b: x=y}}");
}

TEST(Assign, ReachesListItems) {
  EXPECT_EQ(assigned("a: [1, 2, 3]", {"a[1]=5"}), "{a: [1, 5, 3]}");
  EXPECT_EQ(assigned("a: [{b: 1}, {b: 2}]", {"a[1].b=5", "a[0].c.d=6"}), "{a: [{b: 1, c: {d: 6}}, {b: 5}]}");
  EXPECT_EQ(assigned("a: [[1, 2], [3]]", {"a[0][1]=5"}), "{a: [[1, 5], [3]]}");
}

TEST(Assign, RefusesAnItemThatDoesNotExist) {
  EXPECT_EQ(assign_error("a: [{b: 1}]", "a[1].b=2"),
            "--set a[1].b=2: a has 1 item, so it has no item 1. Write an index below 1, or set the whole list.");
  EXPECT_EQ(assign_error("a: [1, 2]", "a[7]=2"),
            "--set a[7]=2: a has 2 items, so it has no item 7. Write an index below 2, or set the whole list.");
  EXPECT_EQ(assign_error("a: []", "a[0]=2"),
            "--set a[0]=2: a is an empty list, so it has no item 0. Set the whole list.");
  EXPECT_EQ(assign_error("", "a.b[0]=2"), "--set a.b[0]=2: a.b is not set, so it has no item 0. Set the whole list.");
}

TEST(Assign, RefusesAStepThroughAValue) {
  EXPECT_EQ(assign_error("a: {b: 1}", "a.b.c=2"),
            "--set a.b.c=2: a.b is `1`, not a map; it has no `c`. Set the whole of it, or correct the path.");
  EXPECT_EQ(assign_error("a: {b: 1}", "a[0]=2"),
            "--set a[0]=2: a is a map, not a list; it has no item 0. Set the whole of it, or correct the path.");
}

TEST(Assign, RefusesAMalformedPathAndShowsIt) {
  for (const std::string path : {"", ".", "a.", ".a", "a..b", "a[", "a]", "a[]", "a[x]", "a[-1]", "a[1]b", "[0]", "a[0",
                                 "a b", "a[99999999999999999999]", "a.[0]"}) {
    EXPECT_EQ(assign_error("", path + "=1"),
              fmt::format("--set {}=1: `{}` is not the path of a key. Write names joined by dots, and list items as "
                          "a[0].b.",
                          path, path));
  }
  EXPECT_EQ(assign_error("", "a"), "--set a: has no `=`. Write --set key=value.");
  std::string deep = "a";
  for (int i = 1; i < 65; ++i) deep += ".a";
  EXPECT_EQ(refusal([&] {
              Node root;
              core::assign(root, deep, core::make_integer(1));
            }),
            fmt::format("`{}...` has 65 names. Write at most 64.", deep.substr(0, 80)));
}

TEST(Assign, OverridesAndSweepPointsKnowWhereTheyCameFrom) {
  auto [path, value] = core::parse_override("a.b={c: 1}");
  EXPECT_EQ(path, "a.b");
  EXPECT_EQ(value.origin, "--set a.b={c: 1}");
  EXPECT_EQ(value.find("c")->origin, "--set a.b={c: 1}");
  Node point = parse_yaml("x: [1]\n", "a.yaml");
  core::annotate(point, "sweep.cases[1]");
  EXPECT_EQ(core::lookup(point, "x[0]")->origin, "a.yaml:1 (sweep.cases[1])");
  EXPECT_EQ(core::lookup(point, "y"), nullptr);
  EXPECT_EQ(core::lookup(point, "x[1]"), nullptr);
}

}  // namespace
