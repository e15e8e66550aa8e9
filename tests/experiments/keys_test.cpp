// Every key of a configuration does something: for each there is a test that shows a changed result, or for a key that
// is not part of a run's id the same result. A key that is declared without a test fails here.
#include "tests/experiments/keys.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cctype>
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
      keys.push_back({name, counts});
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
  EXPECT_THAT(outside, ::testing::ElementsAre("model.residency", "model.spill_above", "qat.save_every", "expect", "out",
                                              "threads", "quiet"));
}

// ---- what is written about the keys ----

TEST(Documentation, TheTableOfKeysIsTheDeclaredOne) {
  Spec spec;
  EXPECT_EQ(core::slurp(std::string(REFRAIN_SOURCE_DIR) + "/docs/keys.md"), core::key_table(spec))
      << "write it again: ./run_experiment --list keys > docs/keys.md";
}

TEST(Documentation, ListsEveryMethod) {
  const std::string table = core::slurp(std::string(REFRAIN_SOURCE_DIR) + "/docs/keys.md");
  for (const auto& [name, method] : quant::make_methods()) {
    EXPECT_THAT(table, ::testing::HasSubstr("\n## `quant." + name + "`\n" + method->summary() + "\n"));
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
}  // namespace experiments
