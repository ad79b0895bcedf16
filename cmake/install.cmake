# What `cmake --install` leaves of the library: headers, archive, and a package for find_package(uvfio). The command
# and its manual page are installed by tools/.

include(CMakePackageConfigHelpers)

install(DIRECTORY include/uvfio DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(TARGETS uvfio EXPORT uvfio)
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/uvfio)
install(EXPORT uvfio NAMESPACE uvfio:: FILE uvfio-targets.cmake DESTINATION ${package})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/uvfio-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES cmake/uvfio-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/uvfio-config-version.cmake DESTINATION ${package})
