// The temporary file: what is written comes back, nothing is left behind, a full disk is one line.
#include "core/io/spill_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <numeric>
#include <thread>
#include <vector>

#include "tests/io/support.h"

namespace core {
namespace {

std::vector<uint8_t> bytes(size_t count, uint8_t first) {
  std::vector<uint8_t> out(count);
  std::iota(out.begin(), out.end(), first);
  return out;
}

TEST(SpillFile, GivesBackWhatWasWrittenWhereverItLies) {
  const Scratch scratch;
  SpillFile file(scratch.path());
  const std::vector<size_t> sizes{1, 4096, 0, 70000, 3};
  std::vector<int64_t> places;
  for (const size_t size : sizes) places.push_back(file.reserve(size));
  for (size_t i = sizes.size(); i-- > 0;) file.write(places[i], bytes(sizes[i], i * 50).data(), sizes[i]);
  for (size_t i = 0; i < sizes.size(); ++i) {
    std::vector<uint8_t> back(sizes[i]);
    file.read(places[i], back.data(), back.size());
    EXPECT_EQ(back, bytes(sizes[i], i * 50)) << "place " << i;
  }
}

TEST(SpillFile, HasNoNameAndMakesItsDirectory) {
  const Scratch scratch;
  SpillFile file(scratch.file("a/b"));
  file.write(file.reserve(10), "0123456789", 10);
  EXPECT_TRUE(std::filesystem::is_empty(scratch.file("a/b")));
}

TEST(SpillFile, TwoThreadsUseTheirPlacesAtTheSameTime) {
  const Scratch scratch;
  SpillFile file(scratch.path());
  constexpr size_t kSize = 10000;
  std::vector<int64_t> places;
  for (int i = 0; i < 64; ++i) places.push_back(file.reserve(kSize));
  const auto work = [&](int first) {
    for (int i = first; i < 64; i += 2) {
      file.write(places[i], bytes(kSize, i).data(), kSize);
      std::vector<uint8_t> back(kSize);
      file.read(places[i], back.data(), kSize);
      EXPECT_EQ(back, bytes(kSize, i)) << "place " << i;
    }
  };
  std::thread other(work, 1);
  work(0);
  other.join();
}

TEST(SpillFile, WithoutSpaceIsOneLineBeforeAnythingIsWritten) {
  const Scratch scratch;
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit small{1 << 16, old.rlim_max};
  SpillFile file(scratch.path());
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const int64_t place = file.reserve(1 << 15);
  const std::string message = message_of([&] { file.reserve(1 << 16); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
  std::signal(SIGXFSZ, before);
  EXPECT_EQ(message, scratch.path() +
                         ": a temporary file cannot be kept here: the file grows beyond the size limit. Free some "
                         "space, choose another --out, or raise model.spill_above.");
  file.write(place, "still usable", 12);
}

TEST(SpillFile, InADirectoryThatCannotBeMadeIsOneLine) {
  const Scratch scratch;
  scratch.put("file", "");
  EXPECT_EQ(
      message_of([&] { SpillFile file(scratch.file("file/a")); }),
      scratch.file("file/a") +
          ": this directory cannot be made: a part of the path is a file, not a directory. Choose another place.");
}

}  // namespace
}  // namespace core
