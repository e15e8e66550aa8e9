// The cache: what is read back is what was committed under this key, and nothing else, by any number of processes.
#include "core/io/cache.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <sys/wait.h>

#include <functional>
#include <mutex>
#include <sstream>

#include "core/io/files.h"
#include "tests/io/support.h"

namespace core {
namespace {

namespace fs = std::filesystem;

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const CacheKey kKey{"tokens", 1, "corpus: abc\n"};

// Makes the entry with one file, or shows that it is there.
bool made(const Cache& cache, const CacheKey& key, const std::string& content) {
  CacheEntry entry = cache.open(key);
  if (entry.complete()) {
    EXPECT_EQ(entry.read("x"), content);
    return false;
  }
  entry.write("x", content);
  entry.commit();
  EXPECT_TRUE(entry.complete());
  EXPECT_EQ(entry.read("x"), content);
  return true;
}

// Names of the entries, sorted.
std::vector<std::string> entries(const Scratch& scratch) {
  std::vector<std::string> names;
  for (const std::string& name : scratch.listing())
    if (fs::is_directory(scratch.file(name))) names.push_back(name);
  return names;
}

// Sets when an entry was last used, in seconds before now.
void age_entry(const Cache& cache, const CacheKey& key, int64_t seconds) {
  const timespec times[2] = {{std::time(nullptr) - seconds, 0}, {std::time(nullptr) - seconds, 0}};
  ASSERT_EQ(::utimensat(AT_FDCWD, (cache.directory() + "/" + key.id() + "/manifest.json").c_str(), times, 0), 0);
}

// A child process that does `work`, says so, and lives until it is killed.
class Child {
 public:
  explicit Child(const std::function<void(const std::function<void()>& ready)>& work) {
    int ready[2];
    if (::pipe(ready) != 0) throw std::runtime_error("no pipe");
    pid_ = ::fork();
    if (pid_ == 0) {
      work([&] { (void)!::write(ready[1], "x", 1); });
      ::_exit(0);
    }
    char byte;
    if (::read(ready[0], &byte, 1) != 1) throw std::runtime_error("the child did nothing");
    ::close(ready[0]);
    ::close(ready[1]);
  }
  ~Child() { end(SIGKILL); }
  void end(int signal) {
    if (pid_ <= 0) return;
    if (signal != 0) ::kill(pid_, signal);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
};

// Calls a function at each line that is logged.
class AtEachLine : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit AtEachLine(std::function<void()> call) : call_(std::move(call)) {}

 private:
  void sink_it_(const spdlog::details::log_msg&) override { call_(); }
  void flush_() override {}

  std::function<void()> call_;
};

// What is logged while it lives.
class Logged {
 public:
  explicit Logged(const std::function<void()>& at_each_line = [] {}) : old_(spdlog::default_logger()) {
    const auto lines = std::make_shared<AtEachLine>(at_each_line);
    const auto text = std::make_shared<spdlog::sinks::ostream_sink_mt>(text_);
    auto logger = std::make_shared<spdlog::logger>("", spdlog::sinks_init_list{text, lines});
    logger->set_pattern("%v");
    spdlog::set_default_logger(logger);
  }
  ~Logged() { spdlog::set_default_logger(old_); }
  std::string text() const { return text_.str(); }

 private:
  std::ostringstream text_;
  std::shared_ptr<spdlog::logger> old_;
};

TEST(Cache, WhatWasCommittedIsFoundUnderItsKeyOnly) {
  const Scratch scratch;
  const Cache cache(scratch.path());
  EXPECT_FALSE(cache.find(kKey));
  EXPECT_TRUE(made(cache, kKey, "content"));
  EXPECT_FALSE(made(cache, kKey, "content"));
  ASSERT_TRUE(cache.find(kKey));
  EXPECT_EQ(cache.find(kKey)->read("x"), "content");
  EXPECT_TRUE(made(cache, {"tokens", 2, kKey.depends}, "of a newer version"));
  EXPECT_TRUE(made(cache, {"tokens", 1, "corpus: abd\n"}, "of another corpus"));
  EXPECT_TRUE(made(cache, {"token", 1, kKey.depends}, "of another stage"));
  EXPECT_FALSE(made(cache, kKey, "content"));
}

TEST(Cache, LookingLeavesNoTrace) {
  const Scratch scratch;
  EXPECT_FALSE(Cache(scratch.file("none")).find(kKey));
  EXPECT_THAT(scratch.listing(), IsEmpty());
}

TEST(Cache, WhatIsNotCommittedIsGone) {
  const Scratch scratch;
  const Cache cache(scratch.path());
  {
    const CacheEntry entry = cache.open(kKey);
    entry.write("x", "half");
    EXPECT_FALSE(cache.find(kKey));
  }
  EXPECT_THAT(scratch.listing(), IsEmpty());
  EXPECT_TRUE(made(cache, kKey, "whole"));
}

TEST(Cache, AnotherKeyInTheSamePlaceIsNotRead) {  // a collision of hashes
  const Scratch scratch;
  const Cache cache(scratch.path());
  const CacheKey other{"tokens", 1, "corpus: xyz\n"};
  made(cache, other, "of another corpus");
  fs::rename(scratch.file(other.id()), scratch.file(kKey.id()));
  fs::rename(scratch.file(other.id() + ".lock"), scratch.file(kKey.id() + ".lock"));
  EXPECT_FALSE(cache.find(kKey));
  Logged log;
  EXPECT_TRUE(made(cache, kKey, "content"));
  EXPECT_EQ(log.text(), scratch.file(kKey.id()) + ": it belongs to another key; made anew\n");
}

struct Damage {
  const char *name, *file, *content;  // content null: removed
  const char* said;
};

class DamagedEntry : public ::testing::TestWithParam<Damage> {};

TEST_P(DamagedEntry, IsMadeAnewWithALine) {
  const Scratch scratch;
  const Cache cache(scratch.path());
  made(cache, kKey, "content");
  const std::string file = scratch.file(kKey.id() + "/" + GetParam().file);
  if (GetParam().content == nullptr) {
    fs::remove(file);
  } else {
    write_atomically(file, GetParam().content);
  }
  EXPECT_FALSE(cache.find(kKey));
  Logged log;
  EXPECT_TRUE(made(cache, kKey, "content"));
  EXPECT_EQ(log.text(),
            GetParam().said[0] == '\0' ? "" : scratch.file(kKey.id()) + ": " + GetParam().said + "; made anew\n");
  EXPECT_FALSE(made(cache, kKey, "content"));
}

INSTANTIATE_TEST_SUITE_P(
    All, DamagedEntry,
    ::testing::Values(Damage{"MissingFile", "x", nullptr, "x is missing"},
                      Damage{"Shorter", "x", "conten", "x has another size"},
                      Damage{"SameSize", "x", "c0ntent", "x has another content"},
                      Damage{"NoKey", "key.txt", nullptr, "key.txt is missing"},
                      Damage{"NoManifest", "manifest.json", nullptr, ""},
                      Damage{"EmptyManifest", "manifest.json", "", "manifest.json cannot be read"},
                      Damage{"CutManifest", "manifest.json", "{\"x\": {\"byt", "manifest.json cannot be read"},
                      Damage{"ForeignManifest", "manifest.json", "{\"x\": 3}", "manifest.json does not list its files"},
                      Damage{"ListManifest", "manifest.json", "[1, 2]", "manifest.json does not list its files"}),
    [](const auto& info) { return info.param.name; });

TEST(Cache, TheEntriesUsedLongestAgoGoWhenItIsFull) {
  const Scratch scratch;
  const std::string content(1000, 'x');
  const Cache cache(scratch.path(), 4500);  // an entry is 1,000 bytes, its key and its manifest: three fit
  const CacheKey a{"a", 1, ""}, b{"b", 1, ""}, c{"c", 1, ""}, d{"d", 1, ""};
  for (const CacheKey& key : {a, b, c}) made(cache, key, content);
  age_entry(cache, a, 30), age_entry(cache, b, 20), age_entry(cache, c, 10);
  EXPECT_TRUE(cache.find(a)) << "and is now the one used last";
  made(cache, d, content);
  EXPECT_THAT(entries(scratch), ElementsAre(a.id(), c.id(), d.id()));
  EXPECT_TRUE(made(cache, b, content));
  EXPECT_THAT(entries(scratch), ElementsAre(a.id(), b.id(), d.id()));
  EXPECT_FALSE(fs::exists(scratch.file(c.id() + ".lock")));
}

TEST(Cache, AnEntryInUseIsNotRemoved) {
  const Scratch scratch;
  const Cache cache(scratch.path(), 0);
  const CacheKey a{"a", 1, ""}, b{"b", 1, ""};
  CacheEntry used = cache.open(a);
  used.write("x", "content");
  used.commit();
  {
    CacheEntry making = cache.open({"m", 1, ""});
    making.write("x", "half");
    made(cache, b, "content");
    EXPECT_EQ(used.read("x"), "content");
    making.commit();
    EXPECT_EQ(making.read("x"), "half");
  }
  EXPECT_EQ(used.read("x"), "content");
  EXPECT_FALSE(cache.find(b)) << "nobody held it when another was committed";
}

TEST(Cache, WhatAKilledProcessLeftIsRemoved) {
  const Scratch scratch;
  const Cache cache(scratch.path());
  const CacheKey left{"left", 1, ""};
  Child child([&](const auto& ready) {
    const CacheEntry entry = cache.open(left);
    entry.write("x", "half");
    ready();
    for (;;) ::pause();
  });
  child.end(SIGKILL);
  EXPECT_THAT(entries(scratch), ElementsAre(left.id()));
  EXPECT_FALSE(cache.find(left));
  made(cache, kKey, "content");
  EXPECT_THAT(entries(scratch), ElementsAre(kKey.id()));
  EXPECT_TRUE(made(cache, left, "whole"));
}

TEST(Cache, WhoComesSecondWaitsSaysForWhomAndReadsWhatTheFirstMade) {
  const Scratch scratch;
  const Cache cache(scratch.path());
  int go[2];
  ASSERT_EQ(::pipe(go), 0);
  const auto next = [&] {  // a minute, so that a failure is one and does not hang
    pollfd readable{go[0], POLLIN, 0};
    char byte;
    if (::poll(&readable, 1, 60'000) == 1) (void)!::read(go[0], &byte, 1);
  };
  const auto say_next = [&] { (void)!::write(go[1], "x", 1); };
  Child child([&](const auto& ready) {
    CacheEntry entry = cache.open(kKey);
    ready();
    next();  // once the other one waits
    entry.write("x", "content");
    entry.commit();
    next();  // once the other one has read it: until then it is read here too
  });
  Logged log(say_next);
  EXPECT_FALSE(made(cache, kKey, "content"));
  say_next();
  EXPECT_THAT(log.text(), HasSubstr("waiting for the cache entry tokens, which pid " + std::to_string(child.pid())));
  EXPECT_EQ(log.text().find('\n'), log.text().size() - 1) << "one line";
  child.end(0);
}

TEST(Cache, SeveralReadAtTheSameTime) {
  const Scratch scratch;
  const Cache cache(scratch.path());
  CacheEntry entry = cache.open(kKey);
  entry.write("x", "content");
  entry.commit();
  Child child([&](const auto& ready) {
    if (cache.open(kKey).read("x") == "content") ready();
  });
  EXPECT_EQ(cache.open(kKey).read("x"), "content");
}

TEST(Cache, OfManyProcessesOneMakesTheEntry) {
  const Scratch scratch;
  const Cache cache(scratch.file("cache"));
  std::vector<pid_t> children;
  for (int n = 0; n < 8; ++n) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      for (int key = 0; key < 5; ++key) {
        const std::string content = "content " + std::to_string(key);
        if (made(cache, {"k", key, ""}, content)) append_line(scratch.file("made"), content);
      }
      ::_exit(::testing::Test::HasFailure() ? 1 : 0);
    }
    children.push_back(pid);
  }
  for (const pid_t pid : children) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
  }
  std::istringstream lines(slurp(scratch.file("made")));
  std::vector<std::string> all;
  for (std::string line; std::getline(lines, line);) all.push_back(line);
  std::sort(all.begin(), all.end());
  EXPECT_THAT(all, ElementsAre("content 0", "content 1", "content 2", "content 3", "content 4"));
}

TEST(Cache, APlaceThatCannotBeWrittenIsReported) {
  const Scratch scratch;
  const std::string file = scratch.put("file", "");
  EXPECT_EQ(message_of([&] { Cache(file).open(kKey); }),
            file +
                ": this directory cannot be made: a part of the path is a file, not a directory. Choose another "
                "place.");
}

}  // namespace
}  // namespace core
