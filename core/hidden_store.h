// Hidden states of all windows of a text between two blocks, in batches of fixed shape. They stay in memory up to a
// limit; what is above it lies in a temporary file. Where a batch lies changes no bit of it.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

namespace core {

// Memory belongs to the process, and so does the limit: all stores together keep at most `bytes` in memory and spill
// the rest into `directory`. Without a call nothing is spilled. Holds for batches put from now on.
void limit_hidden_states(int64_t bytes, const std::string& directory);

// Bytes of hidden states that are in memory now.
int64_t hidden_bytes_in_memory();

class HiddenStore {
 public:
  explicit HiddenStore(int64_t batches);
  ~HiddenStore();
  HiddenStore(HiddenStore&&) noexcept;
  HiddenStore& operator=(HiddenStore&&) noexcept;

  // The first batches of it, which it shares.
  HiddenStore first(int64_t batches) const;

  int64_t batches() const { return batches_; }
  int64_t spilled() const;  // batches that lie in the file

  // Different batches may be read and written at the same time. [B, T, D], on the device that it was put from.
  at::Tensor get(int64_t batch) const;
  // An undefined tensor frees the batch. Error (one line) when the disk is full.
  void put(int64_t batch, at::Tensor hidden);

 private:
  struct State;
  HiddenStore(std::shared_ptr<State> state, int64_t batches) : state_(std::move(state)), batches_(batches) {}
  std::shared_ptr<State> state_;
  int64_t batches_;
};

}  // namespace core
