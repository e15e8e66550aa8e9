// The real program, started in a directory of its own: a configuration for the tiny model, a short text, and everything
// that it prints and leaves behind.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/io/support.h"

namespace cli {

using Strings = std::vector<std::string>;

struct Finished {
  int code;  // minus the signal that ended it
  std::string out, err;
};

class Program {
 public:
  Program();

  // Runs `run_experiment <arguments>` with the directory as its working directory. REFRAIN_DATA is not set, no
  // model has been fetched.
  Finished run(const Strings& arguments);
  // The same in two steps, for tests that interrupt it or run it several times at once.
  pid_t start(const Strings& arguments);
  Finished wait(pid_t pid);
  // What a started program has written to its standard error so far.
  std::string errors_of(pid_t pid) const { return core::slurp(file(printed(".stderr", pid))); }
  // From now on no file that it writes grows beyond this.
  void limit_file_size(int64_t bytes) { file_size_ = bytes; }
  // From now on another program is started instead: REFRAIN_GENERATE, REFRAIN_PREDICT.
  void be(const std::string& program) { program_ = program; }

  std::string file(const std::string& name) const { return scratch_.file(name); }
  void put(const std::string& name, const std::string& content) const { scratch_.put(name, content); }
  // Replaces a part of c.yaml, or of another file.
  void edit(const std::string& from, const std::string& to, const std::string& name = "c.yaml") const;
  // A copy of the tiny model in ./model, which c.yaml then asks for.
  void own_model() const;
  // Paths of all files and directories, relative, sorted; what the program printed is not among them.
  Strings everything() const;

 private:
  static std::string printed(const std::string& stream, pid_t pid) { return stream + "." + std::to_string(pid); }

  core::Scratch scratch_;
  std::string program_ = REFRAIN_PROGRAM;
  int64_t file_size_ = 0;  // 0: no limit
};

// Names of the models in data/, sorted: all that a program of ours knows.
Strings embedded_models();

// How often a part stands in a text.
size_t occurrences(const std::string& text, const std::string& part);

// Looks again and again until `fact` is one, for two minutes at most: what follows then fails.
void until(const std::function<bool()>& fact);

}  // namespace cli
