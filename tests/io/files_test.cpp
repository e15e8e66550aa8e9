// Reading, atomic writing and appending, above all when they fail. Root ignores permissions, so that failures are made
// with a path below a regular file, /dev/full, and a file size limit.
#include "core/io/files.h"

#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <csignal>
#include <sstream>
#include <thread>

#include "tests/io/support.h"

namespace core {
namespace {

using ::testing::ElementsAre;

// While it lives, no file of this process grows beyond `bytes`.
class SizeLimit {
 public:
  explicit SizeLimit(rlim_t bytes) {
    old_handler_ = std::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit = {bytes, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~SizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_;
  void (*old_handler_)(int);
};

TEST(Files, ReadFileGivesAllBytes) {
  const Scratch scratch;
  std::string content(200'000, '\0');
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * i);
  EXPECT_EQ(read_file(scratch.put("x", content)), content);
  EXPECT_EQ(read_file(scratch.put("empty", "")), "");
}

TEST(Files, ReadFileSaysWhy) {
  const Scratch scratch;
  EXPECT_EQ(message_of([&] { read_file(scratch.file("none")); }),
            scratch.file("none") + ": cannot be read: no such file or directory. Check the path.");
  EXPECT_EQ(message_of([&] { read_file(scratch.path()); }),
            scratch.path() + ": cannot be read: it is a directory. Check the path.");
}

TEST(Files, WriteAtomicallyReplacesAndLeavesNothingElse) {
  const Scratch scratch;
  write_atomically(scratch.file("x"), "old");
  write_atomically(scratch.file("x"), std::string("new\0text", 8));
  EXPECT_EQ(slurp(scratch.file("x")), std::string("new\0text", 8));
  EXPECT_THAT(scratch.listing(), ElementsAre("x"));
}

TEST(Files, NothingAppearsBeforeCommit) {
  const Scratch scratch;
  {
    AtomicFile file(scratch.file("x"));
    file.write("half");
    EXPECT_FALSE(std::filesystem::exists(scratch.file("x")));
  }
  EXPECT_TRUE(scratch.listing().empty());
}

TEST(Files, AFailedWriteKeepsTheOldFileAndLeavesNothingElse) {
  const Scratch scratch;
  write_atomically(scratch.file("x"), "old");
  std::string message;
  {
    const SizeLimit limit(1000);
    message = message_of([&] { write_atomically(scratch.file("x"), std::string(2000, 'n')); });
  }
  EXPECT_EQ(message, scratch.file("x") +
                         ": cannot be written: the file grows beyond the size limit. Free some space or choose another "
                         "place.");
  EXPECT_EQ(slurp(scratch.file("x")), "old");
  EXPECT_THAT(scratch.listing(), ElementsAre("x"));
}

TEST(Files, WriteAtomicallySaysWhy) {
  const Scratch scratch;
  const std::string below = scratch.put("file", "") + "/x", away = scratch.file("none/x");
  EXPECT_EQ(message_of([&] { write_atomically(below, "a"); }),
            below + ": cannot be written: a part of the path is a file, not a directory. Choose another place.");
  EXPECT_EQ(message_of([&] { write_atomically(away, "a"); }),
            away + ": cannot be written: no such file or directory. Choose another place.");
  create_directories(scratch.file("directory"));
  EXPECT_EQ(message_of([&] { write_atomically(scratch.file("directory"), "a"); }),
            scratch.file("directory") + ": cannot be written: it is a directory. Choose another place.");
  EXPECT_THAT(scratch.listing(), ElementsAre("directory", "file"));
}

TEST(Files, AnUnwritableDirectoryIsReported) {
  const Scratch scratch;
  if (::geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  create_directories(scratch.file("locked"));
  std::filesystem::permissions(scratch.file("locked"), std::filesystem::perms::owner_read);
  EXPECT_EQ(message_of([&] { require_writable_directory(scratch.file("locked")); }),
            scratch.file("locked") + ": this directory is not writable. Choose another place.");
}

TEST(Files, DirectoriesAreMadeWithTheirParents) {
  const Scratch scratch;
  create_directories(scratch.file("a/b/c"));
  create_directories(scratch.file("a/b/c"));
  create_directories(scratch.file("a/b/c/"));
  require_writable_directory(scratch.file("a/b/d"));
  EXPECT_TRUE(std::filesystem::is_directory(scratch.file("a/b/d")));
  EXPECT_TRUE(std::filesystem::is_empty(scratch.file("a/b/d")));
}

TEST(Files, ADirectoryThatCannotBeMadeIsReported) {
  const Scratch scratch;
  const std::string file = scratch.put("file", "");
  const std::string end =
      ": this directory cannot be made: a part of the path is a file, not a directory. Choose another place.";
  EXPECT_EQ(message_of([&] { create_directories(file + "/a"); }), file + "/a" + end);
  EXPECT_EQ(message_of([&] { create_directories(file); }), file + end);
  EXPECT_EQ(message_of([&] { require_writable_directory(file); }), file + end);
}

TEST(AppendLine, ANewFileBeginsWithTheHeader) {
  const Scratch scratch;
  append_line(scratch.file("index.csv"), "1,2", "a,b");
  append_line(scratch.file("index.csv"), "3,4", "a,b");
  append_line(scratch.file("index.csv"), "5,6");
  EXPECT_EQ(slurp(scratch.file("index.csv")), "a,b\n1,2\n3,4\n5,6\n");
  append_line(scratch.file("plain"), "x");
  EXPECT_EQ(slurp(scratch.file("plain")), "x\n");
}

TEST(AppendLine, AnotherHeaderIsRefused) {
  const Scratch scratch;
  for (const std::string first : {"a,b,c\n", "a\n", "a,", "x"}) {
    const std::string path = scratch.put("index.csv", first);
    EXPECT_EQ(message_of([&] { append_line(path, "1,2", "a,b"); }),
              path + ": the first line does not have this version's columns. Move the file away.");
    EXPECT_EQ(slurp(path), first);
  }
}

TEST(AppendLine, ALineThatAKilledWriterLeftOpenIsEnded) {
  const Scratch scratch;
  const std::string path = scratch.put("index.csv", "a,b\n1,");
  append_line(path, "3,4", "a,b");
  EXPECT_EQ(slurp(path), "a,b\n1,\n3,4\n");
}

TEST(AppendLine, AFullDiskIsReported) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  EXPECT_EQ(message_of([&] { append_line("/dev/full", "x"); }),
            "/dev/full: cannot be written: the disk is full. Free some space or choose another place.");
}

TEST(AppendLine, AFailedWriteLeavesTheFileAsItWas) {
  const Scratch scratch;
  const std::string path = scratch.put("index.csv", "a,b\n");
  std::string message;
  {
    const SizeLimit limit(10);
    message = message_of([&] { append_line(path, "1234567890", "a,b"); });
  }
  EXPECT_EQ(message, path +
                         ": cannot be written: the file grows beyond the size limit. Free some space or choose another "
                         "place.");
  EXPECT_EQ(slurp(path), "a,b\n");
}

TEST(AppendLine, ManyWritersLoseNothing) {
  const Scratch scratch;
  constexpr int kWriters = 8, kLines = 50;
  std::vector<std::thread> writers;
  for (int w = 0; w < kWriters; ++w) {
    writers.emplace_back([&, w] {
      for (int i = 0; i < kLines; ++i)
        append_line(scratch.file("x"), std::to_string(w) + "," + std::to_string(i), "w,i");
    });
  }
  for (auto& writer : writers) writer.join();
  std::istringstream text(slurp(scratch.file("x")));
  std::string line;
  std::getline(text, line);
  EXPECT_EQ(line, "w,i");
  std::vector<int> next(kWriters, 0);
  while (std::getline(text, line)) {
    const int writer = line[0] - '0';
    EXPECT_EQ(line, std::to_string(writer) + "," + std::to_string(next.at(writer)++));
  }
  EXPECT_EQ(next, std::vector<int>(kWriters, kLines));
}

}  // namespace
}  // namespace core
