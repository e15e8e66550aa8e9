// Going on with a run that was killed or interrupted. Until its results are written, a run directory keeps `progress/`:
// how the run was begun (began.json), and one file per finished block (export/checkpoint.h). Finished blocks are used
// again only when the same code would make the same blocks; then the run also computes with the threads that it was
// begun with, so that it ends with the same bits as one that was never stopped.
#pragma once

#include <string>

#include "experiments/config/spec.h"

namespace experiments {

// Makes a run directory ready for work: an interrupted run goes on; a finished one (it is run again), or one that was
// begun by other versions of the stages, of LibTorch, or on another device or processor, starts anew, with a line in
// the log. Returns the number of threads to compute with.
int64_t resume(const std::string& directory, const Spec& spec);

// Whether work of the run would be lost with the directory.
bool has_progress(const std::string& directory);

// Computes with so many threads while it lives.
class Threads {
 public:
  explicit Threads(int64_t count);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int64_t before_;
};

}  // namespace experiments
