@echo off
rem Makes venv\ beside this file, installs requirements.txt into it whenever that file has changed
rem since the last complete installation, and activates it. Run it in cmd, from any folder:
rem   activate.bat
rem No setlocal here, since it would undo the activation; the work that needs it is in :prepare.

call :prepare
if %ERRORLEVEL% neq 0 exit /b 1
call "%~dp0venv\Scripts\activate.bat"
echo The environment is active. Try next:
if /i not "%CD%\"=="%~dp0" echo   cd /d "%~dp0"
echo   python jacobian\demo.py
echo   cd FullSynthetic\DDPM-MNIST
echo   python initialmain.py --help
echo   python main.py --help
"%~dp0venv\Scripts\python.exe" -W ignore -c "import torch; ok = torch.cuda.is_available(); ok and torch.ones(1, device='cuda').item(); print('CUDA: ' + torch.cuda.get_device_name() if ok else 'CUDA: no GPU is visible, so the CPU will be used')" 2>nul
if %ERRORLEVEL% neq 0 echo CUDA: PyTorch cannot be used; to see why: python -c "import torch; torch.ones(1).cuda()"
exit /b 0


rem Leaves venv\ complete. Exits with 0, or with 1 after one line on stderr.
:prepare
setlocal EnableExtensions DisableDelayedExpansion
rem PyTorch's wheels for CUDA 12.6. A GPU that they do not know (GeForce RTX 50, for instance) needs
rem a newer index, such as .../whl/cu130: change it here, delete venv\ and run this again.
set "TORCH_INDEX=https://download.pytorch.org/whl/cu126"
set "ROOT=%~dp0"
set "VENV=%ROOT%venv"
set "VENV_PYTHON=%VENV%\Scripts\python.exe"

if not exist "%ROOT%requirements.txt" (
    echo activate.bat: requirements.txt is missing beside activate.bat: get the whole project 1>&2
    exit /b 1
)

rem Without Scripts\activate.bat the environment is half made; one that names another folder came
rem with a moved project.
set "VIRTUAL_ENV="
if exist "%VENV%\Scripts\activate.bat" call "%VENV%\Scripts\activate.bat"
if defined VIRTUAL_ENV "%VENV_PYTHON%" -c "import os, pip, sys; sys.exit(not os.path.samefile(os.environ['VIRTUAL_ENV'], sys.prefix))" >nul 2>nul
if defined VIRTUAL_ENV if %ERRORLEVEL% equ 0 goto :install

set "CHECK=import sys; sys.exit(sys.version_info < (3, 10) or sys.maxsize < 2**32)"
set "PYTHON="
py -3 -c "%CHECK%" >nul 2>nul
if %ERRORLEVEL% equ 0 set "PYTHON=py -3"
if not defined PYTHON python -c "%CHECK%" >nul 2>nul
if not defined PYTHON if %ERRORLEVEL% equ 0 set "PYTHON=python"
if not defined PYTHON (
    echo activate.bat: Python 3.10 or newer, 64-bit, was not found: install it and open a new window 1>&2
    exit /b 1
)
echo Making venv ...
%PYTHON% -m venv --clear "%VENV%"
if %ERRORLEVEL% neq 0 (
    echo activate.bat: could not make "%VENV%": close the programs that use it and run this again 1>&2
    exit /b 1
)

:install
rem The copy of requirements.txt exists only while what it lists is completely installed.
fc /b "%ROOT%requirements.txt" "%VENV%\requirements.installed" >nul 2>nul
if %ERRORLEVEL% equ 0 exit /b 0
echo Installing packages into venv (a few minutes the first time) ...
if exist "%VENV%\requirements.installed" del "%VENV%\requirements.installed"
copy /y "%ROOT%requirements.txt" "%VENV%\requirements.new" >nul
findstr /b "torch" "%VENV%\requirements.new" > "%VENV%\requirements.torch"
findstr /v /b "torch" "%VENV%\requirements.new" > "%VENV%\requirements.other"
"%VENV_PYTHON%" -m pip install -q --disable-pip-version-check -r "%VENV%\requirements.other"
if %ERRORLEVEL% equ 0 "%VENV_PYTHON%" -m pip install -q --disable-pip-version-check -r "%VENV%\requirements.torch" --index-url %TORCH_INDEX%
if %ERRORLEVEL% equ 0 move /y "%VENV%\requirements.new" "%VENV%\requirements.installed" >nul
if %ERRORLEVEL% neq 0 (
    echo activate.bat: could not install requirements.txt, pip says why above; run this again to retry 1>&2
    exit /b 1
)
exit /b 0
