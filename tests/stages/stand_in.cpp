// A device for tests on machines that have only a CPU: torch's PrivateUse1 device type over ordinary memory.
//
// A tensor of this device holds its numbers in main memory, but torch sees another device type. Every operator is computed
// by its CPU kernel on the same memory. As on a GPU, an operator that is given tensors of both kinds is refused, unless the
// CPU tensor has no dimensions or the operator copies. So whatever a program forgets to move to the device shows at once.
#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

namespace {

constexpr auto kDevice = c10::DeviceType::PrivateUse1;

// The CPU's allocator, whose memory is labelled as that of the device.
struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    auto data = c10::GetAllocator(c10::kCPU)->allocate(bytes);
    void* place = data.get();
    return {place, data.release_context(), data.get_deleter(), c10::Device(kDevice, 0)};
  }
  void copy_data(void* to, const void* from, std::size_t count) const override {
    default_copy_data(to, from, count);
  }
  c10::DeleterFnPtr raw_deleter() const override { return c10::GetAllocator(c10::kCPU)->raw_deleter(); }
};

Memory memory;

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  at::Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(c10::kCPU); }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
};

struct Guard final : c10::impl::NoOpDeviceGuardImpl<kDevice> {
  c10::Device exchangeDevice(c10::Device) const override { return {kDevice, 0}; }
  c10::Device getDevice() const override { return {kDevice, 0}; }
  c10::Stream getStream(c10::Device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, c10::Device(kDevice, 0));
  }
  c10::Stream exchangeStream(c10::Stream) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, c10::Device(kDevice, 0));
  }
};

bool on_device(const at::Tensor& tensor) { return tensor.defined() && tensor.device().type() == kDevice; }

// A CPU tensor over the same memory. A kernel that makes its result larger gives it other memory.
at::Tensor host(const at::Tensor& tensor) {
  if (!on_device(tensor)) return tensor;
  auto* held = new c10::Storage(tensor.storage());
  c10::DataPtr data(held->mutable_data(), held, [](void* p) { delete static_cast<c10::Storage*>(p); }, c10::kCPU);
  c10::Storage storage(c10::Storage::use_byte_size_t(), held->nbytes(), std::move(data),
                       c10::GetAllocator(c10::kCPU), /*resizable=*/true);
  auto alias = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  alias.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return alias;
}

at::Tensor with_storage(const c10::Storage& storage, const at::Tensor& like, int64_t offset) {
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(storage), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), like.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), offset);
  return tensor;
}

// A result of a CPU kernel as a tensor of the device: a view of an argument where it lies in one's memory, else the memory
// of the result itself.
at::Tensor device(const at::Tensor& result, const std::vector<at::Tensor>& arguments) {
  if (!result.defined() || on_device(result)) return result;
  auto* start = static_cast<char*>(result.storage().mutable_data());
  for (const auto& argument : arguments) {
    if (start != nullptr && argument.storage().mutable_data() == start)
      return with_storage(argument.storage(), result, result.storage_offset());
  }
  auto* held = new at::Tensor(result);
  c10::DataPtr data(start, held, [](void* p) { delete static_cast<at::Tensor*>(p); }, c10::Device(kDevice, 0));
  c10::Storage storage(
      c10::Storage::use_byte_size_t(), result.storage().nbytes(), std::move(data), &memory, /*resizable=*/true);
  return with_storage(storage, result, result.storage_offset());
}

// Gives a result that a CPU kernel has resized its new size and memory.
void take_over(const at::Tensor& written, const at::Tensor& on_host) {
  if (written.storage().data() == on_host.storage().data() && written.sizes() == on_host.sizes()) return;
  auto result = device(on_host, {});
  written.unsafeGetTensorImpl()->set_storage_keep_dtype(c10::Storage(result.storage()));
  written.unsafeGetTensorImpl()->set_sizes_and_strides(result.sizes(), result.strides(), result.storage_offset());
}

void on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto count = schema.arguments().size();
  const auto begin = stack->size() - count;
  std::vector<at::Tensor> ours;                  // tensors of the device among the arguments
  std::vector<at::Tensor> others;                // CPU tensors with dimensions
  std::vector<c10::IValue> given(stack->begin() + begin, stack->end());
  auto note = [&](const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    if (on_device(tensor)) ours.push_back(tensor);
    else if (tensor.dim() > 0) others.push_back(tensor);
  };
  std::vector<std::pair<at::Tensor, at::Tensor>> written;  // arguments that are written to, and their CPU tensors
  bool asked = false;  // whether a result on the device is wanted although no argument lies there
  for (size_t i = 0; i < count; ++i) {
    auto& value = (*stack)[begin + i];
    if (value.isTensor()) {
      const auto tensor = value.toTensor();
      const auto* alias = schema.arguments()[i].alias_info();
      note(tensor);
      value = host(tensor);
      if (on_device(tensor) && alias && alias->isWrite()) written.emplace_back(tensor, value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorList()) { note(tensor); list.push_back(host(tensor)); }
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList()) {
        if (tensor) note(*tensor);
        list.push_back(tensor ? std::optional<at::Tensor>(host(*tensor)) : std::nullopt);
      }
      value = list;
    } else if (value.isDevice() && value.toDevice().type() == kDevice) {
      value = c10::Device(c10::kCPU);
      asked = true;
    }
  }
  TORCH_CHECK(ours.empty() || others.empty(), op.schema().name(), ": expected all tensors on one device, but one of shape ",
              others.empty() ? at::IntArrayRef() : others[0].sizes(), " is on the CPU");
  op.callBoxed(stack);
  for (const auto& [argument, on_host] : written) take_over(argument, on_host);
  const auto results = stack->size() - schema.returns().size();
  for (size_t i = 0; i < schema.returns().size(); ++i) {
    auto& value = (*stack)[results + i];
    const auto* alias = schema.returns()[i].alias_info();
    if (alias && alias->isWrite()) {  // an argument that was written to is returned itself
      for (size_t k = 0; k < count; ++k) {
        const auto* of = schema.arguments()[k].alias_info();
        if (of && of->isWrite() && of->beforeSets() == alias->beforeSets()) value = given[k];
      }
    } else if (value.isTensor() && (asked || !ours.empty())) {
      value = device(value.toTensor(), ours);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorList()) list.push_back(device(tensor, ours));
      value = list;
    }
  }
}

at::Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  host(to).copy_(host(from));
  return to;
}

const at::Tensor& resize_(const at::Tensor& self, c10::IntArrayRef size, std::optional<at::MemoryFormat>) {
  int64_t count = 1;
  for (auto n : size) count *= n;
  auto bytes = static_cast<size_t>(count + self.storage_offset()) * self.element_size();
  if (bytes > self.storage().nbytes()) {
    auto fresh = memory.allocate(bytes);
    std::memcpy(fresh.get(), self.storage().data(), self.storage().nbytes());
    self.storage().set_data_ptr(std::move(fresh));
    self.storage().set_nbytes(bytes);
  }
  self.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  return self;
}

at::Tensor& set_(at::Tensor& self, at::Storage storage, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(storage));
  self.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  return self;
}

// torch leaves convolutions to a device of this type; these are the CPU's.
at::Tensor convolution(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation,
                       bool transposed, c10::SymIntArrayRef output_padding, c10::SymInt groups) {
  auto on_host = bias ? std::optional<at::Tensor>(host(*bias)) : std::nullopt;
  return device(at::convolution_symint(host(input), host(weight), on_host, stride, padding, dilation, transposed,
                                       output_padding, groups), {});
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& gradient, const at::Tensor& input, const at::Tensor& weight, c10::SymIntArrayRef stride,
    c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed, c10::SymIntArrayRef output_padding,
    c10::SymInt groups, std::array<bool, 3> mask) {
  auto biases = std::vector<c10::SymInt>{transposed ? weight.sym_size(1) * groups : weight.sym_size(0)};
  auto [x, w, b] = at::convolution_backward_symint(
      host(gradient), host(input), host(weight), at::OptionalSymIntArrayRef(biases), stride, padding, dilation, transposed,
      output_padding, groups, mask);
  return {device(x, {}), device(w, {}), device(b, {})};
}

at::Scalar item(const at::Tensor& self) { return host(self).item(); }

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_cpu>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("resize_", &resize_);
  m.impl("set_.source_Storage_storage_offset", &set_);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
  m.impl("_local_scalar_dense", &item);
  // torch would compute it by views, of channels-last tensors, which these do not allow; a GPU has a kernel
  m.impl("native_group_norm", torch::CppFunction::makeFromBoxedFunction<&on_cpu>());
}

namespace {
c10::impl::DeviceGuardImplRegistrar guard(kDevice, new Guard());
const bool registered = [] {
  c10::SetAllocator(kDevice, &memory);
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  return true;
}();
}  // namespace
