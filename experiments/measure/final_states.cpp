#include "experiments/measure/final_states.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "core/error.h"
#include "core/io/files.h"

namespace experiments {

namespace {

// Moves `bytes` bytes by `step(offset, left)`, which like pread and pwrite may move fewer at a time; false: errno says.
template <typename Step>
bool move_all(int64_t bytes, Step step) {
  for (int64_t done = 0; done < bytes;) {
    const ssize_t moved = step(done, bytes - done);
    if (moved == 0) errno = EIO;  // the file is shorter than it was when opened
    if (moved == 0 || (moved < 0 && errno != EINTR)) return false;
    done += moved > 0 ? moved : 0;
  }
  return true;
}

}  // namespace

FinalStates::FinalStates(int descriptor, std::string file, int64_t windows, int64_t scored, int64_t width,
                         at::ScalarType dtype)
    : descriptor_(descriptor),
      file_(std::move(file)),
      windows_(windows),
      scored_(scored),
      width_(width),
      dtype_(dtype) {}

FinalStates::FinalStates(FinalStates&& other) noexcept
    : descriptor_(other.descriptor_),
      file_(std::move(other.file_)),
      windows_(other.windows_),
      scored_(other.scored_),
      width_(other.width_),
      dtype_(other.dtype_) {
  other.descriptor_ = -1;
}

FinalStates::~FinalStates() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

FinalStates FinalStates::create(const std::string& file, int64_t windows, int64_t scored, int64_t width,
                                at::ScalarType dtype) {
  const int descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  core::require(descriptor >= 0, "{}: cannot be made: {}. Choose another --out.", file, core::system_reason(errno));
  return {descriptor, file, windows, scored, width, dtype};
}

FinalStates FinalStates::open(const std::string& file, int64_t windows, int64_t scored, int64_t width,
                              at::ScalarType dtype) {
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  core::require(descriptor >= 0, "{}: cannot be read: {}. Remove its directory.", file, core::system_reason(errno));
  FinalStates states(descriptor, file, windows, scored, width, dtype);
  struct stat status = {};
  const bool whole = ::fstat(descriptor, &status) == 0 && status.st_size == states.bytes();
  core::require(whole, "{}: {} bytes, {} are expected. Remove its directory.", file, status.st_size, states.bytes());
  return states;
}

int64_t FinalStates::row_bytes() const { return width_ * static_cast<int64_t>(c10::elementSize(dtype_)); }

void FinalStates::write(int64_t window, const at::Tensor& states) {
  const at::Tensor plain = states.cpu().contiguous();
  TORCH_CHECK(plain.scalar_type() == dtype_ && plain.sizes() == at::IntArrayRef({scored_, width_}) && window < windows_,
              "final states: ", plain.sizes(), " ", plain.scalar_type(), " as window ", window);
  const auto* from = static_cast<const char*>(plain.const_data_ptr());
  const int64_t bytes = scored_ * row_bytes(), start = window * bytes;
  const bool written = move_all(
      bytes, [&](int64_t done, int64_t left) { return ::pwrite(descriptor_, from + done, left, start + done); });
  core::require(written, "{}: cannot be written: {}. Free {} MB, or set measure.kl to false.", file_,
                core::system_reason(errno), 1 + this->bytes() / 1'000'000);
}

at::Tensor FinalStates::read(int64_t window, int64_t first, int64_t last) const {
  TORCH_CHECK(window < windows_ && first <= last && last <= scored_, "final states: rows ", first, " to ", last,
              " of window ", window);
  at::Tensor states = at::empty({last - first, width_}, dtype_);
  auto* to = static_cast<char*>(states.mutable_data_ptr());
  const int64_t bytes = (last - first) * row_bytes(), start = (window * scored_ + first) * row_bytes();
  const bool whole = move_all(
      bytes, [&](int64_t done, int64_t left) { return ::pread(descriptor_, to + done, left, start + done); });
  core::require(whole, "{}: cannot be read: {}. Remove its directory.", file_, core::system_reason(errno));
  return states;
}

FinalLayers::FinalLayers(core::Model& loaded, const core::Weights& weights)
    : norm_(std::make_shared<core::RmsNorm>(loaded.norm().path(), loaded.shape().width, loaded.shape().norm_eps)),
      head_(loaded.head().pointer()) {
  norm_->load(weights);
}

}  // namespace experiments
