#include "core/hidden_store.h"

#include <ATen/ATen.h>

#include <atomic>
#include <limits>
#include <mutex>

#include "core/io/spill_file.h"

namespace core {

namespace {

// What is left of the limit is shared by threads and stores.
struct Limit {
  std::atomic<int64_t> bytes = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> used = 0;
  std::mutex mutex;
  std::string directory;  // under the mutex

  // Whether so many more bytes may stay in memory; if so they count from now on. Fewer bytes are always welcome.
  bool take(int64_t more) {
    if (used.fetch_add(more) + more <= bytes || more <= 0) return true;
    used -= more;
    return false;
  }
};

Limit& limit() {
  static Limit the_limit;
  return the_limit;
}

// Where one batch is.
struct Place {
  at::Tensor tensor;  // undefined: in the file, or nowhere
  int64_t held = 0;   // bytes that count against the limit
  bool in_file = false;
  int64_t begin = -1, room = 0;  // of the place in the file, once it has one
  std::vector<int64_t> shape;
  at::TensorOptions options;
};

}  // namespace

void limit_hidden_states(int64_t bytes, const std::string& directory) {
  const std::lock_guard<std::mutex> lock(limit().mutex);
  limit().bytes = bytes;
  limit().directory = directory;
}

int64_t hidden_bytes_in_memory() { return limit().used; }

struct HiddenStore::State {
  explicit State(int64_t batches) : places(batches) {}
  ~State() {
    for (Place& place : places) keep(place, {});
  }

  // In memory, or nowhere for an undefined tensor. False when that would break the limit.
  static bool keep(Place& place, at::Tensor tensor) {
    const int64_t bytes = tensor.defined() ? static_cast<int64_t>(tensor.nbytes()) : 0;
    if (!limit().take(bytes - place.held)) return false;
    place.held = bytes;
    place.tensor = std::move(tensor);
    place.in_file = false;
    return true;
  }

  void spill(Place& place, const at::Tensor& tensor) {
    const at::Tensor data = tensor.cpu().contiguous();
    const auto bytes = static_cast<int64_t>(data.nbytes());
    if (bytes > place.room) reserve(place, bytes);
    file->write(place.begin, data.const_data_ptr(), data.nbytes());
    keep(place, {});
    place.in_file = true;
    place.shape = tensor.sizes().vec();
    place.options = tensor.options();
  }

  void reserve(Place& place, int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!file) {
      const std::lock_guard<std::mutex> limit_lock(limit().mutex);
      file = std::make_unique<SpillFile>(limit().directory);
    }
    place.begin = file->reserve(bytes);
    place.room = bytes;
  }

  std::vector<Place> places;
  std::mutex mutex;  // of the file's end
  std::unique_ptr<SpillFile> file;
};

HiddenStore::HiddenStore(int64_t batches) : HiddenStore(std::make_shared<State>(batches), batches) {}
HiddenStore::~HiddenStore() = default;
HiddenStore::HiddenStore(HiddenStore&&) noexcept = default;
HiddenStore& HiddenStore::operator=(HiddenStore&&) noexcept = default;

HiddenStore HiddenStore::first(int64_t batches) const {
  TORCH_CHECK(batches >= 0 && batches <= batches_, "the first ", batches, " of ", batches_, " batches");
  return {state_, batches};
}

int64_t HiddenStore::spilled() const {
  int64_t count = 0;
  for (const Place& place : state_->places) count += place.in_file;
  return count;
}

at::Tensor HiddenStore::get(int64_t batch) const {
  const Place& place = state_->places.at(batch);
  if (!place.in_file) return place.tensor;
  at::Tensor data = at::empty(place.shape, place.options.device(at::kCPU));
  state_->file->read(place.begin, data.mutable_data_ptr(), data.nbytes());
  return data.to(place.options.device());
}

void HiddenStore::put(int64_t batch, at::Tensor hidden) {
  Place& place = state_->places.at(batch);
  if (!State::keep(place, hidden)) state_->spill(place, hidden);
}

}  // namespace core
