#include "experiments/measure/final_states.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace experiments {

namespace {

// Moves `bytes` bytes by `step(done, left)`, which like pread and pwrite may move fewer at a time. Returns an errno, 0
// when all went well.
template <typename Step>
int move_all(int64_t bytes, Step step) {
  for (int64_t done = 0; done < bytes;) {
    const ssize_t moved = step(done, bytes - done);
    if (moved == 0) return EIO;  // the file ends too early
    if (moved < 0 && errno != EINTR) return errno;
    done += moved > 0 ? moved : 0;
  }
  return 0;
}

}  // namespace

FinalStates::FinalStates(const std::string& file, const Shape& shape, Open how)
    : file_(file), shape_(shape), descriptor_(file, how == Open::create ? O_RDWR | O_CREAT | O_TRUNC : O_RDONLY) {
  if (descriptor_.number >= 0) return;
  if (how == Open::create) core::cannot_write(file_, errno);
  core::fail("{}: cannot be read: {}. Remove its directory.", file_, core::system_reason(errno));
}

int64_t FinalStates::row_bytes() const { return shape_.width * static_cast<int64_t>(c10::elementSize(shape_.dtype)); }

void FinalStates::write(int64_t window, const at::Tensor& states) {
  const at::Tensor plain = states.cpu().contiguous();
  TORCH_CHECK(plain.scalar_type() == shape_.dtype && plain.dim() == 2 && plain.size(0) == shape_.scored &&
                  plain.size(1) == shape_.width && window < shape_.windows,
              "final states: ", plain.sizes(), " ", plain.scalar_type(), " as window ", window);
  const auto* from = static_cast<const char*>(plain.const_data_ptr());
  const int64_t bytes = shape_.scored * row_bytes(), start = window * bytes;
  const int error = move_all(bytes, [&](int64_t done, int64_t left) {
    return ::pwrite(descriptor_.number, from + done, static_cast<size_t>(left), start + done);
  });
  if (error != 0) core::cannot_write(file_, error);
}

at::Tensor FinalStates::read(int64_t window, int64_t first, int64_t last) const {
  TORCH_CHECK(window < shape_.windows && first <= last && last <= shape_.scored, "final states: rows ", first, " to ",
              last, " of window ", window);
  at::Tensor states = at::empty({last - first, shape_.width}, shape_.dtype);
  auto* to = static_cast<char*>(states.mutable_data_ptr());
  const int64_t bytes = (last - first) * row_bytes(), start = (window * shape_.scored + first) * row_bytes();
  const int error = move_all(bytes, [&](int64_t done, int64_t left) {
    return ::pread(descriptor_.number, to + done, static_cast<size_t>(left), start + done);
  });
  core::require(error == 0, "{}: cannot be read: {}. Remove its directory.", file_, core::system_reason(error));
  return states;
}

FinalLayers::FinalLayers(core::Model& full)
    : norm_(std::dynamic_pointer_cast<core::RmsNorm>(full.norm().shared_from_this())), head_(full.head().pointer()) {}

FinalLayers::FinalLayers(core::Model& measured, const core::Weights& full)
    : norm_(
          std::make_shared<core::RmsNorm>(measured.norm().path(), measured.shape().width, measured.shape().norm_eps)) {
  norm_->load(full);
  core::Slot& head = measured.head();
  const std::string embedding = measured.embedding().path() + ".weight";
  const std::string name = measured.shape().tied && full.has(embedding) ? embedding : head.path() + ".weight";
  const auto* dense = dynamic_cast<const core::DenseLinear*>(&head.linear());
  if (dense != nullptr && full.same(name, dense->weight())) {
    head_ = head.pointer();
    return;
  }
  core::LoadedTensor loaded = full.read(name, {head.out_features(), head.in_features()});
  head_ = std::make_shared<core::DenseLinear>(std::move(loaded.tensor), at::Tensor(), loaded.stored_bits);
}

}  // namespace experiments
