// Locks between processes: the second one is told who holds it, and a dead holder holds nothing.
#include "core/io/file_lock.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/wait.h>

#include <atomic>
#include <csignal>
#include <future>
#include <thread>

#include "tests/io/support.h"

namespace core {
namespace {

using ::testing::MatchesRegex;

// A child process that takes the lock of a directory and keeps it until it is killed.
class Holder {
 public:
  explicit Holder(const std::string& directory) {
    int ready[2];
    if (::pipe(ready) != 0) throw std::runtime_error("no pipe");
    pid_ = ::fork();
    if (pid_ == 0) {
      const FileLock lock = FileLock::directory(directory);
      (void)!::write(ready[1], "x", 1);
      for (;;) ::pause();
    }
    char byte;
    if (::read(ready[0], &byte, 1) != 1) throw std::runtime_error("the child took no lock");
    ::close(ready[0]);
    ::close(ready[1]);
  }
  ~Holder() { kill(); }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
};

TEST(FileLock, ASecondProcessIsToldWhoHoldsTheDirectory) {
  const Scratch scratch;
  Holder holder(scratch.path());
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  const std::string message = message_of([&] { FileLock::directory(scratch.path()); });
  const std::string head = scratch.path() + ": another runner holds this run directory (pid " +
                           std::to_string(holder.pid()) + " on " + host + " since ";
  EXPECT_EQ(message.substr(0, head.size()), head);
  EXPECT_THAT(message.substr(std::min(head.size(), message.size())),
              MatchesRegex("20..-..-.. ..:..:..\\). Wait for it or choose another --out\\."));
}

TEST(FileLock, AKilledHolderHoldsNothing) {
  const Scratch scratch;
  Holder holder(scratch.path());
  holder.kill();
  EXPECT_EQ(message_of([&] { FileLock::directory(scratch.path()); }), "no error");
}

TEST(FileLock, DestructionReleasesAndMovingDoesNot) {
  const Scratch scratch;
  {
    FileLock first = FileLock::directory(scratch.path(), "cache entry");
    const FileLock moved = std::move(first);
    const std::string message = message_of([&] { FileLock::directory(scratch.path(), "cache entry"); });
    EXPECT_NE(message.find(": another runner holds this cache entry (pid " + std::to_string(::getpid())),
              std::string::npos)
        << message;
  }
  EXPECT_EQ(message_of([&] { FileLock::directory(scratch.path()); }), "no error");
}

TEST(FileLock, WaitTakesTheLockOnceTheHolderIsGone) {
  const Scratch scratch;
  Holder holder(scratch.path());
  std::atomic<bool> taken = false;
  std::promise<std::string> waits;
  std::thread waiter([&] {
    const FileLock lock = FileLock::wait(scratch.file(".lock"), FileLock::Kind::exclusive,
                                         [&](const std::string& holder) { waits.set_value(holder); });
    taken = true;
  });
  EXPECT_EQ(waits.get_future().get().find("pid " + std::to_string(holder.pid())), 0u);
  EXPECT_FALSE(taken);
  holder.kill();
  waiter.join();
  EXPECT_TRUE(taken);
}

TEST(FileLock, AStartedProgramDoesNotInheritTheLock) {
  const Scratch scratch;
  int exec[2];  // closed by the start of another program
  ASSERT_EQ(::pipe(exec), 0);
  ASSERT_EQ(::fcntl(exec[1], F_SETFD, FD_CLOEXEC), 0);
  pid_t child = 0;
  {
    const FileLock lock = FileLock::directory(scratch.path());
    child = ::fork();
    if (child == 0) {
      ::execl("/bin/sleep", "sleep", "60", static_cast<char*>(nullptr));
      ::_exit(1);
    }
  }
  ::close(exec[1]);
  char byte;
  EXPECT_EQ(::read(exec[0], &byte, 1), 0);
  ::close(exec[0]);
  EXPECT_EQ(message_of([&] { FileLock::directory(scratch.path()); }), "no error");
  EXPECT_EQ(::waitpid(child, nullptr, WNOHANG), 0) << "the program still runs";
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

TEST(FileLock, APlaceThatCannotBeLockedIsReported) {
  const Scratch scratch;
  EXPECT_EQ(message_of([&] { FileLock::directory(scratch.file("none")); }),
            scratch.file("none/.lock") + ": cannot be written: no such file or directory. Choose another place.");
  const std::string file = scratch.put("file", "");
  EXPECT_EQ(message_of([&] { FileLock::wait(file + "/x"); }),
            file + "/x: cannot be written: a part of the path is a file, not a directory. Choose another place.");
}

}  // namespace
}  // namespace core
