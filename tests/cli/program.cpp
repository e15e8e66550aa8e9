#include "tests/cli/program.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <thread>

namespace cli {

namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = R"(name: n
model: {path: tiny-qwen3}
quant: {method: rtn, weight: {bits: 4, group_size: 64}}
measure:
  perplexity: [{corpus: text.txt, seq_len: 64, windows: 2}]
)";

// In the child: does not return.
[[noreturn]] void become(const std::string& directory, const std::string& out, const std::string& err,
                         int64_t file_size, std::vector<std::string> words) {
  const bool ready = ::chdir(directory.c_str()) == 0;
  ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666), STDOUT_FILENO);
  ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666), STDERR_FILENO);
  if (file_size > 0) {
    const auto bytes = static_cast<rlim_t>(file_size);
    const rlimit limit = {bytes, bytes};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ::setenv("REFRAIN_HOME", REFRAIN_SOURCE_DIR, 1);
  ::unsetenv("REFRAIN_DATA");
  ::setenv("REFRAIN_MODELS", (directory + "/models").c_str(), 1);  // not those of the user
  ::setenv("OMP_WAIT_POLICY", "PASSIVE", 1);                       // as ctest sets it: other programs use the cores too
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  if (ready) ::execv(pointers[0], pointers.data());
  ::_exit(127);
}

}  // namespace

Program::Program() {
  put("c.yaml", kConfig);
  put("text.txt", core::slurp(std::string(REFRAIN_SOURCE_DIR) + "/data/corpora/tiny/valid.txt").substr(0, 4000));
}

pid_t Program::start(const Strings& arguments) {
  Strings words{program_};
  words.insert(words.end(), arguments.begin(), arguments.end());
  const pid_t pid = ::fork();
  if (pid == 0) {
    become(scratch_.path(), printed(".stdout", ::getpid()), printed(".stderr", ::getpid()), file_size_,
           std::move(words));
  }
  if (pid < 0) throw std::runtime_error("no process");
  return pid;
}

Finished Program::wait(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) throw std::runtime_error("the process is lost");
  }
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return {code, core::slurp(file(printed(".stdout", pid))), core::slurp(file(printed(".stderr", pid)))};
}

Finished Program::run(const Strings& arguments) { return wait(start(arguments)); }

void Program::edit(const std::string& from, const std::string& to, const std::string& name) const {
  std::string text = core::slurp(file(name));
  const size_t at = text.find(from);
  if (at == std::string::npos) throw std::logic_error(name + " has no " + from);
  put(name, text.replace(at, from.size(), to));
}

void Program::own_model() const {
  fs::copy(std::string(REFRAIN_SOURCE_DIR) + "/data/tiny-qwen3", file("model"));
  edit("tiny-qwen3", "model");
}

Strings Program::everything() const {
  Strings paths;
  for (const auto& entry : fs::recursive_directory_iterator(scratch_.path())) {
    const std::string path = fs::path(entry.path()).lexically_relative(scratch_.path());
    if (!path.starts_with(".std")) paths.push_back(path);
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

Strings embedded_models() {
  Strings names;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(REFRAIN_SOURCE_DIR) + "/data")) {
    if (std::filesystem::exists(entry.path() / "config.json")) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

size_t occurrences(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

void until(const std::function<bool()>& fact) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(2);
  while (!fact() && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace cli
