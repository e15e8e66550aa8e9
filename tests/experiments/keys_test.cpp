// Every key of a configuration does something: for each there is a test that shows a changed result, or for a key that
// is not part of a run's id the same result. A key that is declared without a test fails here.
#include "tests/experiments/keys.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "core/io/files.h"

namespace experiments {
namespace {

// ---- the declared keys ----

struct Declared {
  std::string path;  // "measure.perplexity[].seq_len"
  bool identity;
  Strings choices;
};

void collect(core::Section& section, const std::string& path, bool identity, std::vector<Declared>& keys) {
  const core::Keys declared = core::keys_of(section);
  for (const core::Key& key : declared.all()) {
    const std::string name = core::join_path(path, key.name);
    const bool counts = identity && key.identity;
    if (core::Section* const* inner = std::get_if<core::Section*>(&key.target)) {
      collect(**inner, name, counts, keys);
    } else if (const auto* list = std::get_if<core::SectionList>(&key.target)) {
      collect(*list->make(), name + "[]", counts, keys);
    } else {
      keys.push_back({name, counts, key.choices});
    }
  }
}

std::vector<Declared> declared_keys() {
  Spec spec;
  std::vector<Declared> keys;
  collect(spec, "", true, keys);
  return keys;
}

// ---- one proof per key ----

const Proofs& proofs() {
  static const Proofs all = [] {
    Proofs some = proofs_of_runs();
    some.merge(proofs_of_quantization());
    some.merge(proofs_of_replication());
    some.merge(proofs_of_exports());
    return some;
  }();
  return all;
}

Strings declared_paths() {
  Strings paths;
  for (const Declared& key : declared_keys()) paths.push_back(key.path);
  return paths;
}

class Key : public ::testing::TestWithParam<std::string> {};

TEST_P(Key, DoesWhatIsSaidOfIt) {
  const auto proof = proofs().find(GetParam());
  ASSERT_NE(proof, proofs().end()) << GetParam() << " is declared, but nothing here shows what it does";
  proof->second();
}

// measure.perplexity[].seq_len: measure_perplexity___seq_len
std::string test_name(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return !std::isalnum(c); }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Declared, Key, ::testing::ValuesIn(declared_paths()), test_name);

TEST(Keys, HaveNoProofOfWhatIsNotDeclaredAnyMore) {
  const Strings paths = declared_paths();
  for (const auto& [path, proof] : proofs()) EXPECT_THAT(paths, ::testing::Contains(path));
}

TEST(Keys, OnlyWhatCannotChangeAResultIsLeftOutOfTheId) {
  Strings outside;
  for (const Declared& key : declared_keys()) {
    if (!key.identity) outside.push_back(key.path);
  }
  EXPECT_THAT(outside,
              ::testing::ElementsAre(
                  "model.residency", "model.spill_above", "qat.save_every", "exports.gguf.path", "exports.gguf.type",
                  "exports.gguf.allow_refit", "exports.gguf.embedding", "exports.gguf.sidecar", "exports.gguf.blocks",
                  "exports.gguf.split_above", "exports.huggingface.path", "exports.huggingface.format",
                  "exports.huggingface.dtype", "exports.imatrix.path", "exports.imatrix.corpus",
                  "exports.imatrix.seq_len", "exports.imatrix.windows", "expect", "out", "threads", "quiet"));
}

// ---- what is written about the keys ----

TEST(Documentation, TheTableOfKeysIsTheDeclaredOne) {
  Spec spec;
  EXPECT_EQ(core::slurp(std::string(REFRAIN_SOURCE_DIR) + "/docs/keys.md"), core::key_table(spec))
      << "write it again: ./run_experiment --list keys > docs/keys.md";
}

TEST(Documentation, ListsEveryMethodAndStrategy) {
  const std::string table = core::slurp(std::string(REFRAIN_SOURCE_DIR) + "/docs/keys.md");
  const auto has = [&](const std::string& path, const std::string& summary) {
    EXPECT_THAT(table, ::testing::HasSubstr("\n## `" + path + "`\n" + summary + "\n"));
  };
  for (const auto& [name, method] : quant::make_methods()) has("quant." + name, method->summary());
  for (const auto& [name, strategy] : replication::make_strategies()) has("replication." + name, strategy->summary());
}

// ---- what stays as it was found ----

// The points of every file of configs/regression, by the file's name.
std::map<std::string, std::vector<Point>> regressions() {
  std::map<std::string, std::vector<Point>> all;
  for (const auto& file : std::filesystem::directory_iterator(REFRAIN_SOURCE_DIR "/configs/regression"))
    all[file.path().filename()] = read_points(file.path(), {});
  return all;
}

// Every method, transform, strategy and way to train has a point with an expectation.
TEST(Regression, HasAPointOfEverything) {
  std::map<std::string, std::set<std::string>> there;
  for (const auto& [file, points] : regressions()) {
    for (const Point& point : points) {
      if (point.expect.empty()) continue;
      const Spec& spec = point.spec;
      there["method"].insert(spec.quant.method);
      there["strategy"].insert(spec.replication.strategy);
      if (spec.qat.selected()) there["way to train"].insert(spec.qat.method);
      for (const quant::TransformItem& item : spec.transform) there["transform"].insert(item.chosen().name);
    }
  }
  const auto expect_there = [&](const std::string& kind, const std::string& name) {
    EXPECT_THAT(there[kind], ::testing::Contains(name))
        << "no point of configs/regression with an expectation has the " << kind << " " << name;
  };
  for (const auto& [name, method] : quant::make_methods()) {
    if (method->has_defaults()) expect_there("method", name);  // others need a file: gguf_test.cpp
  }
  for (const auto& [name, transform] : quant::make_transforms()) expect_there("transform", name);
  for (const auto& [name, strategy] : replication::make_strategies()) expect_there("strategy", name);
  for (const quant::QatMethod& method : quant::qat_methods()) expect_there("way to train", method.name);
}

// What one point of a file is expected to lose is not what another one is: the loss tells which of them has run.
TEST(Regression, ToleratesLessThanWhatSeparatesItsPoints) {
  const std::string loss = "quantized.perplexity[0].nll";
  for (const auto& [file, points] : regressions()) {
    std::vector<std::pair<double, double>> bands;  // of points that have one, and no others
    for (const Point& point : points) {
      const size_t before = bands.size();
      for (const Expectation& expectation : point.expect) {
        if (expectation.path != loss) continue;
        ASSERT_FALSE(expectation.equal.is_null()) << file << ": a bound to one side tells nothing apart";
        const double equal = std::stod(expectation.equal.scalar);
        bands.emplace_back(equal - expectation.tolerance, equal + expectation.tolerance);
      }
      EXPECT_LE(bands.size(), before + 1) << file << ": one expectation is meant for each point";
    }
    std::sort(bands.begin(), bands.end());
    for (size_t i = 1; i < bands.size(); ++i)
      EXPECT_LT(bands[i - 1].second, bands[i].first) << file << ": two expected losses overlap";
  }
}

TEST(Threads, TwoOfThemReallyRun) {
  std::mutex mutex;
  std::set<std::thread::id> seen;
  at::parallel_for(0, 2, 1, [&](int64_t begin, int64_t end) {
    EXPECT_EQ(end - begin, 1);
    const std::lock_guard<std::mutex> lock(mutex);
    seen.insert(std::this_thread::get_id());
  });
  EXPECT_EQ(seen.size(), 2u);
}

}  // namespace

Strings choices_of(const std::string& path) {
  for (const Declared& key : declared_keys()) {
    if (key.path == path) return key.choices;
  }
  throw std::logic_error(path + " is not declared");
}

}  // namespace experiments
