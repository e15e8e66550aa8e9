// Reading and writing documents, and paths into them.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/config/node.h"
#include "tests/config/sample.h"

namespace {

using core::Node;
using core::parse_yaml;
using sample::refusal;

std::string syntax_error(const std::string& text) {
  return refusal([&] { parse_yaml(text, "a.yaml"); });
}

std::string assign_error(const std::string& document, const std::string& assignment) {
  return refusal([&] {
    Node root = parse_yaml(document, "a.yaml");
    auto [path, value] = core::parse_override(assignment);
    core::assign(root, path, std::move(value));
  });
}

// `document` after assignments, on one line.
std::string assigned(const std::string& document, const std::vector<std::string>& assignments) {
  Node root = parse_yaml(document, "a.yaml");
  for (const std::string& assignment : assignments) {
    auto [path, value] = core::parse_override(assignment);
    core::assign(root, path, std::move(value));
  }
  return core::to_inline_yaml(root);
}

TEST(ReadYaml, EveryValueKnowsTheLineOfItsKey) {
  const Node root = parse_yaml("a: 1\nb:\n  c:\n    two\n  d: [x,\n      y]\ne:\n  - 5\n  - f: 6\n", "a.yaml");
  EXPECT_EQ(root.origin, "a.yaml");
  EXPECT_EQ(root.find("a")->origin, "a.yaml:1");
  EXPECT_EQ(root.find("b")->origin, "a.yaml:2");
  EXPECT_EQ(core::lookup(root, "b.c")->origin, "a.yaml:3");
  EXPECT_EQ(core::lookup(root, "b.d[1]")->origin, "a.yaml:6");
  EXPECT_EQ(core::lookup(root, "e[0]")->origin, "a.yaml:8");
  EXPECT_EQ(core::lookup(root, "e[1].f")->origin, "a.yaml:9");
}

TEST(ReadYaml, KeepsKindOrderAndQuotes) {
  const Node root = parse_yaml("z: \"2\"\na: 2\nm: {}\nl: []\nn: ~\n", "a.yaml");
  ASSERT_EQ(root.entries.size(), 5u);
  EXPECT_EQ(root.entries[0].first, "z");
  EXPECT_TRUE(root.entries[0].second.quoted);
  EXPECT_FALSE(root.entries[1].second.quoted);
  EXPECT_TRUE(root.entries[2].second.is_map());
  EXPECT_TRUE(root.entries[3].second.is_list());
  EXPECT_TRUE(root.entries[4].second.is_null());
  EXPECT_FALSE(root.entries[0].second == root.entries[1].second);
}

TEST(ReadYaml, EmptyDocumentIsNull) {
  EXPECT_TRUE(parse_yaml("", "a.yaml").is_null());
  EXPECT_TRUE(parse_yaml("# nothing", "a.yaml").is_null());
  EXPECT_TRUE(parse_yaml("---\n", "a.yaml").is_null());
  EXPECT_EQ(parse_yaml("--- 1\n...\n", "a.yaml").scalar, "1");
}

TEST(ReadYaml, AnAliasIsACopyAtItsOwnLine) {
  const Node root = parse_yaml("a: &x {b: 1}\nc: *x\n", "a.yaml");
  EXPECT_EQ(*root.find("a"), *root.find("c"));
  EXPECT_EQ(root.find("c")->origin, "a.yaml:2");
}

TEST(ReadYaml, RefusesADuplicateKeyAndNamesBothLines) {
  EXPECT_EQ(syntax_error("quant:\n  bits: 2\n  size: 3\n  bits: 4\n"),
            "a.yaml:4: quant.bits is given twice, first on line 2. Keep one of them.");
  EXPECT_EQ(syntax_error("rules:\n  - a: 1\n  - {b: 1,\n     b: 2}\n"),
            "a.yaml:4: rules[1].b is given twice, first on line 3. Keep one of them.");
  EXPECT_EQ(assign_error("", "a={b: 1, b: 2}"), "--set a={b: 1, b: 2}: b is given twice. Keep one of them.");
}

TEST(ReadYaml, RefusesAMergeKey) {
  EXPECT_EQ(syntax_error("a: &x {b: 1}\nc:\n  <<: *x\n"),
            "a.yaml:3: the merge key `<<` is not supported. Write the keys out.");
}

TEST(ReadYaml, RefusesWhatIsNotYaml) {
  EXPECT_EQ(syntax_error("a: 1\nb: [1, 2\nc: 3\n"),
            "a.yaml:3: not valid YAML: end of sequence flow not found. Check indentation, brackets and quotes here.");
  EXPECT_EQ(assign_error("", "a=[1"),
            "--set a=[1: not valid YAML: end of sequence flow not found. Check indentation, brackets and quotes here.");
}

TEST(ReadYaml, RefusesAQuoteThatIsNeverClosed) {
  const std::string message =
      ": a quoted string that begins here, or soon after, is not closed. Add the closing quote.";
  for (const std::string quote : {"'", "\""}) {
    EXPECT_EQ(syntax_error("x: 1\na: " + quote + "b"), "a.yaml:2" + message);
    EXPECT_EQ(syntax_error("x: 1\na: " + quote + "b\n"), "a.yaml:2" + message);
    EXPECT_EQ(syntax_error("x: 1\na: " + quote + "b\nc: 2\nd: 3\n"), "a.yaml:2" + message);
    EXPECT_EQ(syntax_error("- 1\n- " + quote + "b\n- 2\n"), "a.yaml:1" + message);
    EXPECT_EQ(syntax_error(quote), "a.yaml:1" + message);
    EXPECT_EQ(assign_error("", "a=" + quote + "x"), "--set a=" + quote + "x" + message);
  }
}

TEST(ReadYaml, RefusesWhatConfigurationsDoNotNeed) {
  EXPECT_EQ(syntax_error("a: 1\n---\nb: 2\n"), "a.yaml:2: a second document begins here. Keep one document per file.");
  EXPECT_EQ(syntax_error("a: !!int 3\n"),
            "a.yaml:1: the YAML tag `tag:yaml.org,2002:int` is not supported. Remove it.");
  EXPECT_EQ(syntax_error("a: 1\n[b]: 2\n"), "a.yaml:2: a key must be a name, not a list. Write `name: value`.");
  EXPECT_EQ(syntax_error("\"\": 2\n"), "a.yaml:1: a key must be a name, not an empty string. Write `name: value`.");
  EXPECT_EQ(syntax_error("a: &x [*x]\n"),
            "a.yaml:1: an alias stands inside the value that it names. Write the value out.");
  EXPECT_EQ(syntax_error(std::string("a: 1\nb: x\x04y\n")),
            "a.yaml:2: the control character \\x04 cannot stand in YAML. Save the file as UTF-8 text.");
}

TEST(ReadYaml, RefusesWhatIsNotUtf8) {
  EXPECT_EQ(syntax_error("a: 1\nb: x\xF9y\n"), "a.yaml:2: the byte \\xf9 is not UTF-8. Save the file as UTF-8 text.");
  EXPECT_EQ(syntax_error("a: \xC3"), "a.yaml:1: the byte \\xc3 is not UTF-8. Save the file as UTF-8 text.");
  EXPECT_EQ(syntax_error(std::string("\xFF\xFE"
                                     "a\0",
                                     4)),
            "a.yaml:1: the byte \\xff is not UTF-8. Save the file as UTF-8 text.");
  EXPECT_EQ(parse_yaml("\xEF\xBB\xBF"
                       "a: \xC3\xA9",
                       "a.yaml")
                .find("a")
                ->scalar,
            "\xC3\xA9");  // a byte order mark is fine
}

TEST(ReadYaml, RefusesDeepDocuments) {
  const std::string message = "a.yaml:1: nested more than 64 levels deep. Flatten it.";
  EXPECT_EQ(syntax_error(std::string(64, '[') + std::string(64, ']')), "");
  EXPECT_EQ(syntax_error(std::string(65, '[') + std::string(65, ']')), message);
  EXPECT_EQ(syntax_error(std::string(500'000, '[')), message);
  std::string aliases = "a0: &a0 [1]\n";
  for (int i = 1; i < 100; ++i) aliases += fmt::format("a{}: &a{} [*a{}]\n", i, i, i - 1);
  EXPECT_EQ(syntax_error(aliases), "a.yaml:64: nested more than 64 levels deep. Flatten it.");
}

TEST(ReadYaml, RefusesDocumentsThatAliasesBlowUp) {
  std::string nodes = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n";
  for (int i = 1; i < 12; ++i) {
    nodes += fmt::format("a{}: &a{} [", i, i);
    for (int j = 0; j < 10; ++j) nodes += fmt::format("*a{},", i - 1);
    nodes += "]\n";
  }
  const std::string message = ": more than 1000000 values once aliases are expanded. Use fewer aliases.";
  EXPECT_EQ(syntax_error(nodes), "a.yaml:6" + message);
  std::string bytes = "a: &a " + std::string(500'000, 'x') + "\nb: [";
  for (int i = 0; i < 1000; ++i) bytes += "*a ,";
  EXPECT_EQ(syntax_error(bytes + "]\n"), "a.yaml:2" + message);
}

TEST(ReadYaml, RefusesFilesThatAreNone) {
  const auto read_error = [](const std::string& path) { return refusal([&] { core::read_yaml(path); }); };
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "refrain_yaml_test";
  std::filesystem::create_directories(folder);
  std::filesystem::current_path(folder);
  std::ofstream("big.yaml") << std::string(core::kMaxDocumentBytes + 1, '#');
  std::ofstream("good.yaml") << "a: 1\n";
  EXPECT_EQ(read_error("none.yaml"), "none.yaml: no such file. Check the path.");
  EXPECT_EQ(read_error("."), ".: is a directory. Name a YAML file in it.");
  EXPECT_EQ(read_error("big.yaml"), "big.yaml: longer than 1048576 bytes. Is this a YAML configuration?");
  EXPECT_EQ(core::read_yaml("good.yaml").find("a")->origin, "good.yaml:1");
}

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

TEST(ToYaml, IsReadable) {
  const std::string text =
      "name: qwen/group_size\n"
      "weight:\n"
      "  bits: 2\n"
      "  noise:\n"
      "    sigma: 0.0\n"
      "seeds: [1, 2, 3]\n"
      "transform: []\n"
      "empty: {}\n"
      "rules:\n"
      "  - match: \"*.down_proj\"\n"
      "    weight:\n"
      "      bits: 3\n"
      "  - match: x\n"
      "nested:\n"
      "  - - a: 1\n"
      "    - 2\n";
  EXPECT_EQ(core::to_yaml(parse_yaml(text, "a.yaml")), text);
}

TEST(ToYaml, QuotesWhatWouldReadAsSomethingElse) {
  for (const std::string text : {"",      "08",  "2",   "-1",   "+.5", "1e3",  "0x10", "1_000", "2026-01-31", "true",
                                 "False", "yes", "off", "null", "~",   "Null", ".nan", "-.inf", "<<",         "="}) {
    const Node node = core::make_string(text);
    EXPECT_EQ(core::to_yaml(node), "\"" + text + "\"\n");
    EXPECT_EQ(parse_yaml(core::to_yaml(node), "x"), node);
  }
  for (const std::string text : {"a", "tiny/test", "../shared", "a b", "model.layers.0", "/x", "_x", "e3", "none"}) {
    EXPECT_EQ(core::to_yaml(core::make_string(text)), text + "\n");
  }
}

TEST(ToYaml, ReadsBackWhateverTheStringHolds) {
  std::vector<std::string> texts = {"a: b",
                                    "a #b",
                                    "- a",
                                    "---",
                                    "...",
                                    "[a",
                                    "{",
                                    "a,b",
                                    "*a",
                                    "&a",
                                    "!a",
                                    "|",
                                    ">",
                                    "%a",
                                    "@a",
                                    "`",
                                    "'",
                                    "\"",
                                    "\\",
                                    "a\nb",
                                    "\n",
                                    "\t",
                                    " a",
                                    "a ",
                                    "?",
                                    ":",
                                    "-",
                                    "a:",
                                    "é",
                                    "日本",
                                    "\xF0\x9F\x98\x80",
                                    std::string(300, 'w') + " " + std::string(300, 'v')};
  for (int c = 0; c < 128; ++c) texts.push_back(std::string(1, static_cast<char>(c)));
  for (int c = 0; c < 128; ++c) texts.push_back(std::string("x") + static_cast<char>(c) + "y");
  for (const std::string& text : texts) {
    const Node scalar = core::make_string(text);
    const Node list = core::make_list({scalar, scalar});
    Node map = core::make_map({{"k", scalar}, {"l", list}, {"m", core::make_list({core::make_map({{"n", scalar}})})}});
    if (!text.empty()) map.entries.emplace_back(text + "_", scalar);
    for (const Node& node : {scalar, list, map}) {
      EXPECT_EQ(parse_yaml(core::to_yaml(node), "x"), node) << core::to_yaml(node);
      EXPECT_EQ(parse_yaml(core::to_inline_yaml(node), "x"), node) << core::to_inline_yaml(node);
    }
  }
}

TEST(ToYaml, NumbersReadBackAsTheSameDouble) {
  EXPECT_EQ(core::make_number(1).scalar, "1.0");
  EXPECT_EQ(core::make_number(0.1).scalar, "0.1");
  EXPECT_EQ(core::make_number(1e-8).scalar, "1.0e-08");
  EXPECT_EQ(core::make_number(-2.5e300).scalar, "-2.5e+300");
  for (double value : {0.1 + 0.2, 1.0 / 3, 5e-324, 1.7976931348623157e308, -0.0, 123456789.125}) {
    EXPECT_EQ(std::strtod(core::make_number(value).scalar.c_str(), nullptr), value);
  }
}

TEST(Shown, IsOneShortLine) {
  EXPECT_EQ(core::shown("a\nb\x01"), "a\\x0ab\\x01");
  EXPECT_EQ(core::shown(std::string(100, 'x')), std::string(80, 'x') + "...");
  EXPECT_EQ(core::shown(std::string(79, 'x') + "éé"), std::string(79, 'x') + "...");
  EXPECT_EQ(core::shown(core::make_string("2")), "`\"2\"`");
  EXPECT_EQ(core::shown(Node()), "nothing");
}

}  // namespace
