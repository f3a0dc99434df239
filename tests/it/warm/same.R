# Compares packages that were installed in two ways: `R --vanilla --args LIBRARY LIBRARY PACKAGE... < same.R`.
#
# Prints one line per difference, and how much was compared. Files are compared byte by byte. Where bytes differ, what R
# keeps in them is compared object by object, texts line by line, shared objects by what they export; all without the
# stamps of a build: where it was, when, and in which process.
args <- commandArgs(TRUE)
libraries <- args[1:2]
packages <- args[-(1:2)]
n <- c(packages = 0L, files = 0L, unequal = 0L, objects = 0L)
differs <- function(...) cat(..., "\n")

# Where a build was: `.../.staging/{process}/{number}`, with a number of any length.
anonymous <- function(object) {
    # Of paths: where the part starts that R keeps of them.
    attr(object, "first") <- NULL
    hook <- function(env) if (is.environment(env)) "env"
    text <- rawToChar(serialize(object, NULL, ascii = TRUE, refhook = hook))
    gsub("[0-9]+\n[^\n]*/\\.staging/[0-9a-f]+/[0-9]+", "0\nSCRATCH", text)
}

lines <- function(file) {
    text <- readLines(file, warn = FALSE)
    gsub("/[^ =]*/\\.staging/[0-9a-f]+/[0-9]+", "SCRATCH", text, useBytes = TRUE)
}

objects <- function(base) {
    index <- readRDS(paste0(base, ".rdx"))
    compressed <- if (is.null(index$compressed)) TRUE else index$compressed
    # A reference to an environment is its name. What is bound to a promise fails to be found outside of its package.
    value <- function(key) tryCatch(
        lazyLoadDBfetch(key, paste0(base, ".rdb"), compressed, function(name) structure(list(), ref = name)),
        error = conditionMessage
    )
    # Of an environment, as R's databases keep it: the time of a source, the process.
    fetch <- function(key) {
        object <- value(key)
        if (is.list(object) && !is.object(object) && is.list(object[["bindings"]])) object[["bindings"]][c("pid", "timestamp")] <- NULL
        object
    }
    rapply(c(index$variables, index$references), fetch, how = "list")
}

exported <- function(file) system2("nm", c("-D", "--defined-only", "--format=posix", shQuote(file)), stdout = TRUE)

same <- function(a, b, file) {
    if (grepl("\\.rdx$", file)) return(TRUE)
    if (grepl("\\.rdb$", file)) {
        both <- lapply(c(a, b), function(path) lapply(objects(sub("\\.rdb$", "", path)), anonymous))
        n[["objects"]] <<- n[["objects"]] + length(both[[1]])
        return(identical(both[[1]][order(names(both[[1]]))], both[[2]][order(names(both[[2]]))]))
    }
    if (grepl("\\.rds$", file)) return(identical(anonymous(readRDS(a)), anonymous(readRDS(b))))
    if (grepl("\\.so$", file)) return(identical(sub(" .*", "", exported(a)), sub(" .*", "", exported(b))))
    identical(lines(a), lines(b))
}

for (package in packages) {
    dirs <- file.path(libraries, package)
    files <- lapply(dirs, list.files, recursive = TRUE, all.files = TRUE, include.dirs = TRUE)
    for (file in setdiff(files[[1]], files[[2]])) differs(package, "only the first has", file)
    for (file in setdiff(files[[2]], files[[1]])) differs(package, "only the second has", file)
    for (file in intersect(files[[1]], files[[2]])) {
        paths <- file.path(dirs, file)
        if (!identical(file.mode(paths[1]), file.mode(paths[2]))) differs(package, "has another mode of", file)
        if (dir.exists(paths[1])) next
        n[["files"]] <- n[["files"]] + 1L
        bytes <- lapply(paths, function(path) readBin(path, "raw", file.size(path)))
        if (identical(bytes[[1]], bytes[[2]])) next
        n[["unequal"]] <- n[["unequal"]] + 1L
        if (!isTRUE(same(paths[1], paths[2], file))) differs(package, "has another", file)
    }
    # The help of every topic, as people read it, and what the namespace offers.
    help <- lapply(libraries, function(library) {
        pages <- tools::Rd_db(package, lib.loc = library)
        lapply(pages, function(page) capture.output(tools::Rd2txt(page, fragment = TRUE, options = list(underline_titles = FALSE))))
    })
    if (!identical(help[[1]], help[[2]])) differs(package, "has other help")
    exports <- lapply(libraries, function(library) parseNamespaceFile(package, library))
    if (!identical(exports[[1]], exports[[2]])) differs(package, "has another namespace")
    n[["packages"]] <- n[["packages"]] + 1L
}
cat("compared:", paste(n, names(n), collapse = ", "), "\n")
