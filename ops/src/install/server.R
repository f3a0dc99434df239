# A warm R, and what it becomes: read by R from its standard input, as one expression, by `warm.rs`.
#
# It forks for every request, a line `install DIR` or `run DIR` on its standard input. The child takes on the environment
# and the directory in `DIR/env`, and returns to R's own top level, which goes on reading standard input: but that is
# `DIR/script` by now. So errors, warnings and `quit()` are R's own, as is the end.
#
# What the child tells, a line each, goes into the named pipe `DIR/news`:
#
#     ready        it is about to begin
#     cannot ...   this R is none that larder knows how to fork
#     run          (an install) it waits for the end of what it has put into the next directory: please have it run
#     end ...      it ends, and cleans up: `ok`, `failed`, or `outside`, where configure, make or a compiler failed, which
#                  another R would not help
#
# Nobody attaches anything here: what is loaded in this process is in every package's build.
local({
    tools <- asNamespace("tools")
    plain <- tools$R_runR
    routines <- list()
    cannot <- tryCatch({
        # Not the namespace: a fresh R has not loaded it either.
        routines <- getDLLRegisteredRoutines(library.dynam("parallel", "parallel", .Library))$.Call
        n_parameters <- function(name) routines[[name]]$numParameters
        takes <- function(f, names) is.function(f) && identical(names(formals(f)), names)
        if (!identical(c(n_parameters("mc_fork"), n_parameters("mc_close_fds"), n_parameters("mc_kill")), c(1L, 1L, 2L)))
            "parallel's routines are others"
        else if (!takes(plain, c("cmd", "Ropts", "env", "stdout", "stderr", "stdin", "arch", "timeout")))
            "tools:::R_runR is another"
        else if (!is.function(tools$.install_packages) || !"args" %in% names(formals(tools$.install_packages)))
            "tools:::.install_packages is another"
        else if (!"check" %in% names(formals(tempdir)) || !capabilities("fifo"))
            "it has no named pipes"
    }, error = conditionMessage)

    own <- Sys.getenv()
    dir <- news <- script <- NULL
    is_install <- FALSE
    n_runs <- 0L
    tell <- function(line) {
        writeLines(line, news)
        flush(news)
    }
    split <- function(paths) strsplit(paths, ":", fixed = TRUE)[[1L]]

    # Strings that end with a zero byte, `NAME=VALUE`, as in /proc/PID/environ.
    read_env <- function(path) {
        lines <- readBin(path, "character", file.size(path))
        at <- regexpr("=", lines, fixed = TRUE)
        structure(substring(lines, at + 1L), names = substr(lines, 1L, at - 1L))
    }
    write_env <- function(env, path) {
        con <- file(path, "wb")
        on.exit(close(con))
        writeBin(paste0(names(env), "=", env), con)
    }

    become <- function() {
        news <<- file(file.path(dir, "news"), "w", raw = TRUE)
        env <- read_env(file.path(dir, "env"))
        # An install names what is its own; R's start scripts have set the rest here as they would for it.
        if (is_install) env <- c(own[setdiff(names(own), names(env))], env)
        Sys.unsetenv(setdiff(names(Sys.getenv()), names(env)))
        do.call(Sys.setenv, as.list(env))
        setwd(env[["PWD"]])
        # The one that R had when it started is gone, so this makes another below the new TMPDIR.
        tempdir(check = TRUE)
        # As R's own profile does it.
        .libPaths(c(split(env[["R_LIBS"]]), split(env[["R_LIBS_USER"]])))
        # The lowest free descriptor is the next one taken, so this is standard input.
        .Call(routines$mc_close_fds, 0L)
        script <<- file(file.path(dir, "script"), "r")
        reg.finalizer(environment(tell), function(.) tell(paste("end", outcome())), onexit = TRUE)
        tell("ready")
    }

    # Where R quits, the calls that led to it are still there.
    outcome <- function() {
        is_outside <- function(call)
            identical(call[[1L]], quote(pkgerrmsg)) && call[[2L]] %in% c("configuration failed", "compilation failed")
        if (file.exists(file.path(dir, "ok"))) "ok"
        else if (any(vapply(sys.calls(), function(call) isTRUE(try(is_outside(call), TRUE)), NA))) "outside"
        else "failed"
    }

    # In place of another R: its like, made by the same fork from the same fresh state.
    fork <- function(cmd = NULL, Ropts = "", env = "", stdout = TRUE, stderr = TRUE, stdin = NULL, arch = "", timeout = 0) {
        is_known <- is_install && is.character(cmd) && identical(Ropts, "--no-save --no-restore --no-echo") &&
            identical(trimws(env), "R_TESTS=") && isTRUE(stdout) && isTRUE(stderr) && is.null(stdin) &&
            identical(arch, "") && timeout == 0
        if (!is_known) return(plain(cmd, Ropts, env, stdout, stderr, stdin, arch, timeout))
        n_runs <<- n_runs + 1L
        nested <- file.path(dirname(dir), n_runs)
        write_env(replace(Sys.getenv(), c("R_TESTS", "PWD"), c("", getwd())), file.path(nested, "env"))
        # It comes to the last line only if nothing failed before.
        done <- sprintf("base::invisible(base::file.create(%s))", dQuote(file.path(nested, "ok"), FALSE))
        writeLines(c(cmd, done), file.path(nested, "script"))
        tell("run")
        con <- fifo(file.path(nested, "news"), "r", blocking = TRUE)
        on.exit(close(con))
        while (length(line <- readLines(con, 1L)) && !startsWith(line, "end ")) NULL
        # What it printed is in the log.
        if (identical(line, "end ok")) character() else structure(character(), status = 1L)
    }
    # Every child would do so by itself otherwise, at half the cost of an empty package.
    functions <- c("tell", "split", "read_env", "write_env", "become", "outcome", "fork")
    for (name in functions) assign(name, compiler::cmpfun(get(name)))
    unlockBinding("R_runR", tools)
    assign("R_runR", fork, tools)
    lockBinding("R_runR", tools)

    unlink(tempdir(), recursive = TRUE)
    repeat {
        request <- strsplit(readLines(stdin(), 1L), " ", fixed = TRUE)
        # Whoever asked is gone: nothing that was begun for it is to go on.
        if (!length(request)) .Call(routines$mc_kill, 0L, 9L)
        is_install <- request[[1L]][1L] == "install"
        dir <- paste(request[[1L]][-1L], collapse = " ")
        if (is.character(cannot)) {
            news <- file(file.path(dir, "news"), "w", raw = TRUE)
            tell(paste("cannot", cannot))
            close(news)
        } else if (.Call(routines$mc_fork, 1L)[1L] == 0L) {
            # Nobody would hear of it otherwise.
            tryCatch(become(), error = function(e) {
                message("larder: ", conditionMessage(e))
                .Call(routines$mc_kill, 0L, 9L)
            })
            break
        }
    }
    invisible()
})
