// What is remembered between calls, and what makes it forgotten.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <set>

#include "core/io/files.h"
#include "experiments/inputs/cache_key.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

// ---- token ids ----

// How many texts a new process tokenizes to check the lab's point; it remembers them.
int64_t tokenized(const Lab& lab, const Strings& overrides = {}) {
  core::create_directories(lab.out() + "/.cache");
  Resources resources(lab.out() + "/.cache");
  for (Point& point : lab.points(overrides)) resolve(std::move(point), resources);
  resources.remember_tokens();
  return resources.texts_tokenized();
}

std::string token_hash(const Lab& lab, const std::string& cache, const Strings& overrides = {}) {
  Resources resources(cache);
  const Spec spec = lab.points(overrides).front().spec;
  core::Shape shape;
  shape.context = shape.vocabulary = 1 << 20;
  return windows_of(first_perplexity(spec), resources, resources.model(spec.model.path), shape).token_hash;
}

TEST(Tokens, AreTheSameFromTheCache) {
  const Lab lab;
  EXPECT_EQ(tokenized(lab), 1);
  EXPECT_EQ(tokenized(lab), 0);
  for (const char* windows : {"1", "3", "0"}) {
    const Strings overrides{fmt::format("measure.perplexity[0].windows={}", windows)};
    EXPECT_EQ(token_hash(lab, lab.out() + "/.cache", overrides), token_hash(lab, "", overrides));
  }
}

TEST(Tokens, AreSharedByEveryWayToCutThem) {
  const Lab lab;
  EXPECT_EQ(tokenized(lab), 1);
  EXPECT_EQ(tokenized(lab, {"measure.perplexity[0].seq_len=32", "measure.perplexity[0].windows=0"}), 0);
  EXPECT_EQ(tokenized(lab, {"model.path=" + lab.copy_of_model()}), 0) << "the same tokenizer elsewhere";
}

TEST(Tokens, OfAChangedTextOrTokenizerAreMadeAnew) {
  const Lab lab;
  const std::string model = lab.copy_of_model();
  const Strings here{"model.path=" + model};
  EXPECT_EQ(tokenized(lab, here), 1);
  const std::string text = core::slurp(lab.file("text.txt"));
  lab.put("text.txt", "X" + text.substr(1));  // same path, same size
  EXPECT_EQ(tokenized(lab, here), 1);
  EXPECT_EQ(token_hash(lab, lab.out() + "/.cache", here), token_hash(lab, "", here));
  lab.put("text.txt", text);
  EXPECT_EQ(tokenized(lab, here), 0) << "the first one is still there";
  core::write_atomically(model + "/tokenizer.json", core::slurp(model + "/tokenizer.json") + "\n");
  EXPECT_EQ(tokenized(lab, here), 1);
}

TEST(Tokens, AreNotWrittenBeforeTheyMayBe) {
  const Lab lab;
  Resources resources(lab.out() + "/.cache");
  for (Point& point : lab.points()) resolve(std::move(point), resources);
  EXPECT_FALSE(std::filesystem::exists(lab.out()));
}

// ---- keys ----

std::string id(const Lab& lab, const Strings& overrides = {}, int version = 1, const std::string& model = "m",
               const std::string& parent = "") {
  const Spec spec = lab.points(overrides).front().spec;
  return cache_key(spec, {"stage", version, {&spec.quant.weight, &spec.measure}, {{"model", model}}, parent}).id();
}

TEST(CacheKey, ChangesWithEverythingThatTheStageDependsOnAndNothingElse) {
  const Lab lab;
  const std::string key = id(lab);
  EXPECT_EQ(id(lab), key);
  EXPECT_EQ(id(lab, {"out=" + lab.file("elsewhere"), "quiet=false", "checkpoint=discard"}), key) << "not handed to it";
  std::set<std::string> all{key};
  for (const std::string& other :
       {id(lab, {"quant.weight.bits=3"}), id(lab, {"measure.batch_tokens=64"}), id(lab, {"model.dtype=bfloat16"}),
        id(lab, {}, 2), id(lab, {}, 1, "n"), id(lab, {}, 1, "m", "baseline-0")}) {
    EXPECT_TRUE(all.insert(other).second);
  }
  const int threads = at::get_num_threads();
  at::set_num_threads(threads == 1 ? 2 : 1);
  EXPECT_TRUE(all.insert(id(lab)).second) << "the number of threads changes bits";
  at::set_num_threads(threads);
  EXPECT_EQ(id(lab), key);
}

}  // namespace
}  // namespace experiments
